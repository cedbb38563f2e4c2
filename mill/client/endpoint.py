"""Where milld's API is, which token opens it and whose certificates it may show: arguments, then environment, then the files that milld leaves on its node.

Knows nothing of HTTP. Called once by each `Client`.
"""

import json
import os
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
    """A base URL without a slash at its end, and the bearer token for it; `hint` says why there is none.

    `ca` is the file of the authority that its certificate must be by, or, where the system's are trusted too (`system_ca`),
    may be by. `own`: the address is what milld on this machine said of itself.
    """

    url: str
    token: str | None = attrs.field(default=None, repr=False)
    hint: str = "set MILL_TOKEN"
    ca: Path | None = None
    system_ca: bool = True
    own: bool = False

    @property
    def local(self) -> bool:
        """Whether the other end is this very machine, where no proxy has any business."""
        return self.own or self.loopback

    @property
    def loopback(self) -> bool:
        return _is_loopback(urlsplit(self.url).hostname or "")


def locate(
    address: str | None,
    token: str | None,
    environ: Mapping[str, str],
    ca: str | os.PathLike[str] | None = None,
) -> Endpoint:
    """What was said wins over ``MILL_ADDRESS``, ``MILL_TOKEN`` and ``MILL_CA``, they over the files in milld's data directory.

    The node's own token is never sent to another machine. Raises `FieldError` for an address that is none.
    """
    data_dir = Path(environ.get("MILL_DATA_DIR") or DEFAULT_DATA_DIR)
    if address:
        endpoint = Endpoint(parse_address("address", address))
    elif environ.get("MILL_ADDRESS"):
        endpoint = Endpoint(parse_address("MILL_ADDRESS", environ["MILL_ADDRESS"]))
    else:
        endpoint = _advertised(data_dir / "api.json")
    endpoint = _with_authority(endpoint, ca or environ.get("MILL_CA"), data_dir / "ca.pem")
    token = token or environ.get("MILL_TOKEN", "").strip() or None
    if token is not None:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise FieldError("MILL_TOKEN", "is not a token: it holds blanks or characters no token has")
        return attrs.evolve(endpoint, token=token)
    return _with_local_token(endpoint, data_dir / "admin.token") if endpoint.local else endpoint


def parse_address(field: str, text: str) -> str:
    """``HOST``, ``HOST:PORT`` or an http(s) URL as a base URL; raises `FieldError` naming *field*.

    Without a scheme it is https, as milld speaks it off loopback; on loopback it is http.
    """
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
    scheme = "https" if bare and not _is_loopback(host) else parts.scheme
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}{f':{port}' if port is not None else ''}{parts.path.rstrip('/')}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _advertised(path: Path) -> Endpoint:
    """The address that milld wrote at its start, or the default where there is none to read."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return Endpoint(parse_address(str(path), said["address"]), own=True)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, FieldError):
        return Endpoint(DEFAULT_URL)


def _with_authority(endpoint: Endpoint, said: str | os.PathLike[str] | None, found: Path) -> Endpoint:
    """The file that was *said*, and it alone; else the one that this machine's milld left, which others may know as well."""
    if said:
        return attrs.evolve(endpoint, ca=Path(said), system_ca=False)
    if endpoint.url.startswith("https:") and os.access(found, os.R_OK):
        return attrs.evolve(endpoint, ca=found, system_ca=not endpoint.local)
    return endpoint


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
