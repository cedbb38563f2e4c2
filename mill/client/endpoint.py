"""Where milld's API is and which token opens it: arguments, then environment, then the files that milld leaves on its node.

Knows nothing of HTTP. Called once by each `Client`.
"""

import json
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from mill.errors import FieldError

DEFAULT_URL = "http://127.0.0.1:4400"
DEFAULT_PORT = 4400
DEFAULT_DATA_DIR = "/var/lib/mill"
ADDRESS_HELP = "write HOST:PORT or a URL such as http://127.0.0.1:4400"


@attrs.frozen
class Endpoint:
    """A base URL without a slash at its end, and the bearer token for it; `hint` says why there is none."""

    url: str
    token: str | None = attrs.field(default=None, repr=False)
    hint: str = "set MILL_TOKEN"

    @property
    def loopback(self) -> bool:
        """Whether the other end is this very machine, where no proxy has any business."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def locate(address: str | None, token: str | None, environ: Mapping[str, str]) -> Endpoint:
    """What was said wins over ``MILL_ADDRESS`` and ``MILL_TOKEN``, they over the files in milld's data directory.

    The node's own token is never sent to another machine. Raises `FieldError` for an address that is none.
    """
    data_dir = Path(environ.get("MILL_DATA_DIR") or DEFAULT_DATA_DIR)
    if address:
        url = parse_address("address", address)
    elif environ.get("MILL_ADDRESS"):
        url = parse_address("MILL_ADDRESS", environ["MILL_ADDRESS"])
    else:
        url = _advertised(data_dir / "api.json")
    token = token or environ.get("MILL_TOKEN", "").strip() or None
    if token is not None:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise FieldError("MILL_TOKEN", "is not a token: it holds blanks or characters no token has")
        return Endpoint(url, token)
    endpoint = Endpoint(url)
    if not endpoint.loopback:
        return endpoint
    return _with_local_token(endpoint, data_dir / "admin.token")


def parse_address(field: str, text: str) -> str:
    """``HOST``, ``HOST:PORT`` or an http(s) URL as a base URL; raises `FieldError` naming *field*."""
    text = text.strip()
    bare = "://" not in text
    try:
        parts = urlsplit(f"http://{text}" if bare else text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in {"http", "https"} or parts.query or parts.fragment or " " in text:
        raise FieldError(field, f"{text!r} is not an address: {ADDRESS_HELP}")
    if parts.username or parts.password:
        raise FieldError(field, "must not carry a user or password: the token belongs into MILL_TOKEN")
    if bare and port is None:
        port = DEFAULT_PORT
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{port}' if port is not None else ''}{parts.path.rstrip('/')}"


def _advertised(path: Path) -> str:
    """The address that milld wrote at its start, or the default where there is none to read."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return parse_address(str(path), said["address"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, FieldError):
        return DEFAULT_URL


def _with_local_token(endpoint: Endpoint, path: Path) -> Endpoint:
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        return attrs.evolve(endpoint, hint=f"cannot read {path} ({why}): run as its owner, or set MILL_TOKEN")
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        return attrs.evolve(endpoint, hint=f"{path} holds no token: set MILL_TOKEN")
    return attrs.evolve(endpoint, token=token)
