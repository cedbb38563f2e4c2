"""Image references as Docker reads them. Pure: knows no registry, no store; whoever takes a reference from a person calls `parse`.

The grammar is the distribution project's (its package ``reference``): a first part with ``.``, ``:`` or the name
``localhost`` is a host; without one it is Docker Hub, where a name of one part lies under ``library/``.
"""

import ipaddress
import re

import attrs

DOCKER_HUB = "docker.io"
DEFAULT_TAG = "latest"

_DOCKER_HUB_ALIASES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_DOCKER_HUB_API = "registry-1.docker.io"
_NAME_LIMIT = 255  # characters of host and repository together, as the distribution project limits them
_SHOWN_LIMIT = 80  # characters of a refused reference that a message repeats

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?")
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BARE_DIGEST = re.compile(r"[0-9a-f]{64}")


@attrs.frozen
class Reference:
    """A parsed reference; at least one of `tag` and `digest` is set. With both, the digest decides."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def normalised(self) -> str:
        """The one spelling that the store knows the image by, such as ``docker.io/library/busybox:latest``."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.host}/{self.repository}{tag}{digest}"

    @property
    def pull_host(self) -> str:
        """Whom to ask: Docker Hub's registry has another name than its images."""
        return api_host(self.host)

    @property
    def target(self) -> str:
        """What the manifest is asked for by: the digest if there is one, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    def __str__(self) -> str:
        return self.normalised


def parse(text: str) -> Reference:
    """A reference out of what a person wrote; `ValueError` says what is wrong with it."""
    if not text:
        raise ValueError("an image reference is empty: write one such as busybox:latest")
    if text != text.strip() or any(c.isspace() for c in text):
        raise ValueError(f"{_shown(text)} is not an image reference: it contains white space")
    if "://" in text:
        raise ValueError(
            f"{_shown(text)} is a URL and not an image reference: leave {text.partition('://')[0][:20]}:// out"
        )
    if _BARE_DIGEST.fullmatch(text):
        raise ValueError(f"{_shown(text)} is not an image reference: a bare digest names no repository")
    name, digest = _split_digest(text)
    name, tag = _split_tag(name)
    host, repository = _split_host(name)
    if tag is not None and not _TAG.fullmatch(tag):
        raise ValueError(
            f"{_shown(text)} has a bad tag: letters, digits, '_', '.' and '-', at most 128, no '.' or '-' first"
        )
    _check_name(text, host, repository)
    if tag is None and digest is None:
        tag = DEFAULT_TAG
    return Reference(host, repository, tag, digest)


def api_host(host: str) -> str:
    """The host that the registry known as *host* is asked under: Docker Hub's has several names and answers to one."""
    return _DOCKER_HUB_API if host in _DOCKER_HUB_ALIASES else host


def is_digest(text: str) -> bool:
    """Whether *text* is a digest of the one kind that Mill takes: ``sha256:`` and 64 hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether *host* (with or without a port) is this machine by its name: ``localhost``, 127.0.0.0/8 or ::1."""
    bare = host.partition("]")[0][1:] if host.startswith("[") else host
    for name in (bare, bare.rpartition(":")[0]):
        if name.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            continue
    return False


def _split_digest(text: str) -> tuple[str, str | None]:
    name, at, digest = text.partition("@")
    if not at:
        return name, None
    if not is_digest(digest):
        raise ValueError(f"{_shown(text)} has a bad digest: write sha256: and 64 hexadecimal digits")
    return name, digest


def _split_tag(name: str) -> tuple[str, str | None]:
    colon = name.rfind(":")
    if colon <= name.rfind("/"):  # a colon before the last slash is a port
        return name, None
    return name[:colon], name[colon + 1 :]


def _split_host(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        host = first.lower()
        if host not in _DOCKER_HUB_ALIASES:
            return host, rest
        name = rest
    return DOCKER_HUB, name if "/" in name else f"library/{name}"


def _check_name(text: str, host: str, repository: str) -> None:
    port = host.rpartition(":")[2] if not host.endswith("]") and ":" in host else "0"
    if not _HOST.fullmatch(host) or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 -- the largest port
        raise ValueError(f"{_shown(text)} has a bad host: write HOST or HOST:PORT before the first slash")
    for part in repository.removeprefix("library/").split("/"):
        if part != part.lower():
            raise ValueError(
                f"{_shown(text)} is not an image reference: a repository is written in lower case"
            )
        if not _PART.fullmatch(part):
            raise ValueError(
                f"{_shown(text)} is not an image reference: write [HOST/]NAME[:TAG] or NAME@sha256:DIGEST, "
                "names of lower-case letters and digits with '.', '_' or '-' between them"
            )
    if len(host) + 1 + len(repository) > _NAME_LIMIT:
        raise ValueError(f"{_shown(text)} is too long: host and repository may have {_NAME_LIMIT} characters")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_LIMIT else text[:_SHOWN_LIMIT] + "...")
