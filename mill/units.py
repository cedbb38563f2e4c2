"""Sizes, durations and addresses as people write them. A leaf: knows nothing of Mill; everything that parses input calls it.

``2G`` is 2 GiB, as with Docker and cgroups. Every function raises `ValueError` with a message that says what is accepted.
"""

import math
import re
from ipaddress import ip_address

KIB = 1024
MIB = 1024**2
GIB = 1024**3

DNS_PORT = 53

SIZE_PATTERN = r"([0-9]{1,19}(?:\.[0-9]{1,19})?)\s*([KMGTkmgt]?)(?:[Ii]?[Bb])?"
DURATION_PATTERN = r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+(?:\.[0-9]+)?)s)?(?:([0-9]+)ms)?"
NUMBER_PATTERN = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
"""All three as Python and JSON Schema read them alike; a duration is the second or the third."""

_SIZE = re.compile(SIZE_PATTERN, re.ASCII)
_SIZE_FACTORS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1024**4}
_DURATION = re.compile(DURATION_PATTERN)
_NUMBER = re.compile(NUMBER_PATTERN)
_DURATION_FACTORS = (86400.0, 3600.0, 60.0, 1.0, 0.001)

MOST_SIZE_BYTES = 2**63 - 1
"""The kernel's and SQLite's largest integer."""

_MOST_SECONDS = 1e18  # far past any use; a larger integer need not fit a float

_SIZE_HELP = "write bytes or a number with K, M, G or T, such as 512M or 2G"
_DURATION_HELP = "write seconds or a duration such as 90s, 30m, 1h30m or 2d"


def parse_size(value: object) -> int:
    """Bytes from ``2G``, ``512MiB``, ``"1.5g"`` or a non-negative integer."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON does not tell 1.0 from 1 (RFC 8259)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is not a size: {_SIZE_HELP}")  # noqa: TRY004 -- one kind of error for all bad input
    if isinstance(value, int):
        size = value
    else:
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{value!r} is not a size: {_SIZE_HELP}")
        number = float(match[1]) if "." in match[1] else int(match[1])
        size = int(number * _SIZE_FACTORS[match[2].upper()])
    if not 0 <= size <= MOST_SIZE_BYTES:
        raise ValueError(f"{value!r} is {'negative' if size < 0 else 'too large'}: {_SIZE_HELP}")
    return size


def parse_duration(value: object) -> float:
    """Seconds from ``90s``, ``1h30m``, ``2d``, ``250ms`` or a non-negative, finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a duration: {_DURATION_HELP}")  # noqa: TRY004 -- as above
    if isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text):
            seconds = float(text)
        else:
            match = _DURATION.fullmatch(text)
            if not text or match is None:
                raise ValueError(f"{value!r} is not a duration: {_DURATION_HELP}")
            parts = zip(match.groups(), _DURATION_FACTORS, strict=True)
            seconds = sum(float(part) * factor for part, factor in parts if part)
    else:
        seconds = float(value) if abs(value) <= _MOST_SECONDS else math.inf
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{value!r} is not a duration: {_DURATION_HELP}")
    return seconds


def format_size(size_bytes: float) -> str:
    """Three significant figures at most: ``512B``, ``1.2G``, ``80M``."""
    size = float(size_bytes)
    for unit in ("B", "K", "M", "G"):
        if size < 999.5:  # noqa: PLR2004 -- and not 1024, so that four digits never show
            return f"{size:.1f}{unit}" if size < 9.95 and unit != "B" and size % 1 else f"{size:.0f}{unit}"  # noqa: PLR2004
        size /= 1024
    return f"{size:.1f}T"


def format_duration(seconds: float) -> str:
    """The one or two largest units: ``0s``, ``45s``, ``12m``, ``1h30m``, ``2d3h``."""
    whole = max(0, int(seconds))
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    if days:
        return f"{days}d{hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    if minutes:
        return f"{minutes}m"
    return f"{secs}s"


def parse_address(text: str) -> tuple[str, int]:
    """``127.0.0.1:4400``, ``[::1]:4400`` or ``:4400`` (all addresses) as (host, port); ValueError otherwise."""
    host, colon, port = text.rpartition(":")
    if not colon or re.fullmatch(r"[0-9]{1,5}", port) is None or int(port) > 65535:  # noqa: PLR2004 -- the last port
        raise ValueError(f"{text!r} is not an address: write IP:PORT, such as 127.0.0.1:4400")
    host = host.removeprefix("[").removesuffix("]") or "0.0.0.0"
    try:
        ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ValueError(f"{text!r} is not an address: {host!r} is no IP address") from None
    return ("127.0.0.1" if host == "localhost" else host), int(port)


def parse_resolvers(value: object) -> tuple[tuple[str, int], ...]:
    """``192.0.2.53,[2001:db8::53]:5353``, or a list of such, as (IP, port); the port of DNS where none is said."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not parts:
        raise ValueError(f"{value!r} is no list of resolvers: write IP[:PORT], separated by commas")
    return tuple(_resolver(part) for part in parts)


def _resolver(value: object) -> tuple[str, int]:
    text = value.strip() if isinstance(value, str) else ""
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[]*))(?::([0-9]{1,5}))?", text)
    host, port = (match[1] or match[2], int(match[3] or DNS_PORT)) if match else (text, DNS_PORT)
    try:
        address = ip_address(host)
    except ValueError:
        address = ip_address(0)
    if address.is_unspecified or not 0 < port <= 65535:  # noqa: PLR2004 -- the last port
        raise ValueError(f"{value!r} is no resolver: write IP or IP:PORT, such as 192.0.2.53")
    return str(address), port
