"""What each field of a spec may hold, as attrs validators that name the field. A leaf: `model.Draft` carries them.

Each raises `errors.FieldError` with the field's path and a line that says what is accepted. Whether a node can do what
is asked (image reference, room, allowed mounts) is not theirs to know. What JSON Schema can say of a check is written beside
it (`in_schema`) and found by `KEYWORDS`: the API's document shows it.
"""

import math
import re
import signal
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar

from mill.errors import FieldError
from mill.units import MIB, format_duration, format_size

Check = TypeVar("Check", bound=Callable[..., None])

NAME_LENGTH = 58
"""A name plus ``-`` and a suffix of four makes a DNS label of at most 63 characters (RFC 1035)."""

LEAST_CPU = 0.01
LEAST_MEMORY_BYTES = 6 * MIB
"""Docker's own floor; below it runc fails with a text about current usage."""
MOST_TIMEOUT_S = 366 * 86400.0
MOST_GRACE_S = 86400.0
MOST_STRING_BYTES = 128 * 1024 - 1
"""The kernel's limit for one argument or environment string (execve(2): MAX_ARG_STRLEN)."""

KEY_HEADER = "Idempotency-Key"
MOST_REQUEST_KEY_LENGTH = 255
REQUEST_KEY_PATTERN = f"[!-~]{{1,{MOST_REQUEST_KEY_LENGTH}}}"
"""Visible ASCII, as a header carries it."""

LEAST_MESH_PREFIX = 28
"""The smallest range that is of use: 13 tasks on one node."""
MESH_LINKS = ("vxlan", "routes", "auto")

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_MOST_PORT = 65535
_MOST_SIGNAL = 64
"""Linux' SIGRTMAX; the `signal` module of other systems, where the client runs too, does not know it."""
_LEAST_REALTIME = 34
"""SIGRTMIN as the C library leaves it to programs."""
_REALTIME_SPAN = _MOST_SIGNAL - _LEAST_REALTIME
_REALTIME = re.compile(r"SIGRT(MIN\+|MAX-)([0-9]{1,2})")
"""As images of systemd say it: ``SIGRTMIN+3`` is a halt."""


_NO_NUL: Mapping[str, Any] = {"type": "string", "pattern": r"^[^\x00]*$", "maxLength": MOST_STRING_BYTES}
_VARIABLE = r"[^=\x00]+"
_MOST_IMAGE_LENGTH = 512
"""Far over any real reference."""
_MOST_KEY_LENGTH, _MOST_LABEL_LENGTH = 253, 4096
"""Kubernetes' and containerd's limits."""
_NO_SPACE = r"[^\s:\x00-\x20\x7f-\xa0]"
"""Spelled out: Python and ECMA 262, by which a schema's pattern goes, differ in what is a space."""
_USER = f"{_NO_SPACE}+(?::{_NO_SPACE}+)?"
_SIGNAL = r"\s*[A-Za-z0-9]+(?:[+-][0-9]{1,2})?\s*"

LABEL_KEYWORDS: Mapping[str, Any] = {"pattern": f"^{_LABEL.pattern}$", "maxLength": NAME_LENGTH}
SIGNAL_KEYWORDS: Mapping[str, Any] = {"pattern": f"^{_SIGNAL}$", "minimum": 1, "maximum": _MOST_SIGNAL}
GRACE_KEYWORDS: Mapping[str, Any] = {"minimum": 0, "maximum": MOST_GRACE_S}

KEYWORDS: dict[Callable[..., None], Mapping[str, Any]] = {}
"""Of each check, the keywords that JSON Schema has for it: never stricter than the check, where it has none, laxer."""


def in_schema(**keywords: Any) -> Callable[[Check], Check]:
    """Notes what of a check JSON Schema can say; keywords of another type than the value's say nothing there."""

    def note(check: Check) -> Check:
        KEYWORDS[check] = keywords
        return check

    return note


def is_label(text: str, most: int = NAME_LENGTH) -> bool:
    """Whether *text* is a lower-case DNS label of at most *most* characters."""
    return len(text) <= most and _LABEL.fullmatch(text) is not None


def is_host_name(text: str) -> bool:
    """Whether *text* is lower-case DNS labels with dots between them."""
    return len(text) <= 253 and all(  # noqa: PLR2004 -- RFC 1035, as it is written out
        is_label(part, 63) for part in text.split(".")
    )


def check_request_key(key: str) -> None:
    """What a spawn may be made safe to repeat by."""
    if re.fullmatch(REQUEST_KEY_PATTERN, key) is None:
        most = MOST_REQUEST_KEY_LENGTH
        raise FieldError(KEY_HEADER, f"must be 1 to {most} visible ASCII characters, a UUID for instance")


def parse_signal(value: str | int) -> int:
    """The number of ``TERM``, ``SIGTERM``, ``15``, 15 or ``RTMIN+3``, or ValueError."""
    text = str(value).strip().upper()
    if text.isascii() and text.isdigit():
        number = int(text)
        if 1 <= number <= _MOST_SIGNAL:
            return number
    else:
        name = text if text.startswith("SIG") else f"SIG{text}"
        if name in signal.Signals.__members__:
            return int(signal.Signals[name])
        if (realtime := _REALTIME.fullmatch(name)) and (distance := int(realtime[2])) <= _REALTIME_SPAN:
            return _LEAST_REALTIME + distance if realtime[1] == "MIN+" else _MOST_SIGNAL - distance
    raise ValueError(
        f"{value!r} is not a signal: write a name such as TERM, or a number from 1 to {_MOST_SIGNAL}"
    )


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15; ``signal 40`` for a real-time signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _plain(field: str, text: str) -> None:
    if "\0" in text:
        raise FieldError(field, "must not hold a NUL character")
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise FieldError(field, "is not valid UTF-8 text") from None
    if length > MOST_STRING_BYTES:
        raise FieldError(
            field, f"is longer than {MOST_STRING_BYTES} bytes, the kernel's limit for one string"
        )


@in_schema(pattern=r"\S", maxLength=_MOST_IMAGE_LENGTH)
def check_image(_: object, field: Any, value: Any) -> None:
    if value is not None and (not value.strip() or len(value) > _MOST_IMAGE_LENGTH):
        raise FieldError(field.name, "must be an image reference such as docker.io/library/busybox:latest")


@in_schema(**LABEL_KEYWORDS)
def check_name(_: object, field: Any, value: str | None) -> None:
    if value is not None and not is_label(value):
        raise FieldError(
            field.name, f"{value!r} is no DNS label: use at most {NAME_LENGTH} of a-z, 0-9 and inner hyphens"
        )


@in_schema(items=_NO_NUL)
def check_strings(_: object, field: Any, value: tuple[str, ...] | None) -> None:
    for index, text in enumerate(value or ()):
        _plain(f"{field.name}[{index}]", text)


@in_schema(items=_NO_NUL, prefixItems=[{**_NO_NUL, "minLength": 1}], minItems=1)
def check_command(owner: object, field: Any, value: tuple[str, ...] | None) -> None:
    check_strings(owner, field, value)
    if value is not None and (not value or not value[0]):
        raise FieldError(field.name, "must name a program; leave it out to use the image's own")


@in_schema(additionalProperties=_NO_NUL, propertyNames={"pattern": f"^{_VARIABLE}$"})
def check_env(_: object, field: Any, value: Mapping[str, str] | None) -> None:
    for name, text in (value or {}).items():
        if not name or "=" in name or "\0" in name:
            raise FieldError(field.name, f"{name!r} is no name of an environment variable")
        _plain(f"{field.name}.{name}", f"{name}={text}")  # as the kernel gets it


@in_schema(
    additionalProperties={**_NO_NUL, "maxLength": _MOST_LABEL_LENGTH},
    propertyNames={"pattern": f"^{_VARIABLE}$", "maxLength": _MOST_KEY_LENGTH},
)
def check_labels(_: object, field: Any, value: Mapping[str, str] | None) -> None:
    for key, text in (value or {}).items():
        if not key or "=" in key or len(key) > _MOST_KEY_LENGTH or len(text) > _MOST_LABEL_LENGTH:
            raise FieldError(
                field.name,
                f"{key[:64]!r}: a key has 1 to {_MOST_KEY_LENGTH} characters without '=', a value at most {_MOST_LABEL_LENGTH}",
            )
        _plain(f"{field.name}.{key}", f"{key}={text}")
        if any("\udc80" <= char <= "\udcff" for char in key + text):
            raise FieldError(f"{field.name}.{key}", "is not valid UTF-8 text")  # SQLite looks labels up


@in_schema(minimum=LEAST_CPU)
def check_cpu(_: object, field: Any, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value >= LEAST_CPU):
        raise FieldError(field.name, f"{value} is not a number of cores: write {LEAST_CPU} or more")


@in_schema(minimum=LEAST_MEMORY_BYTES)
def check_memory(_: object, field: Any, value: int | None) -> None:
    if value is not None and value < LEAST_MEMORY_BYTES:
        raise FieldError(
            field.name,
            f"{value} bytes is too little to start a container: write {format_size(LEAST_MEMORY_BYTES)} or more",
        )


@in_schema(exclusiveMinimum=0, maximum=MOST_TIMEOUT_S)
def check_timeout(_: object, field: Any, value: float | None) -> None:
    if value is not None and not 0 < value <= MOST_TIMEOUT_S:
        raise FieldError(field.name, f"must be more than 0s and at most {format_duration(MOST_TIMEOUT_S)}")


@in_schema(**GRACE_KEYWORDS)
def check_grace(_: object, field: Any, value: float | None) -> None:
    if value is not None and not 0 <= value <= MOST_GRACE_S:
        raise FieldError(field.name, f"must be from 0s to {format_duration(MOST_GRACE_S)}")


@in_schema(minimum=1, maximum=_MOST_PORT)
def check_port(_: object, field: Any, value: int | None) -> None:
    if value is not None and not 1 <= value <= _MOST_PORT:
        raise FieldError(field.name, f"{value} is not a port: write 1 to {_MOST_PORT}")


def check_publish(_: object, field: Any, value: tuple[Any, ...] | None) -> None:
    seen = set()
    for index, published in enumerate(value or ()):
        if published.host in seen:
            raise FieldError(f"{field.name}[{index}].host", f"port {published.host} is published twice")
        if published.host is not None:
            seen.add(published.host)


@in_schema(minimum=1, maximum=_MOST_PORT)
def check_task_port(owner: object, field: Any, value: int) -> None:
    check_port(owner, field, value)


@in_schema(pattern=f"^{_USER}$")
def check_user(_: object, field: Any, value: str | None) -> None:
    if value is not None and re.fullmatch(_USER, value) is None:
        raise FieldError(field.name, f"{value!r} is no user: write NAME, UID, NAME:GROUP or UID:GID")


@in_schema(pattern=r"^/[^\x00]*$")
def check_path(_: object, field: Any, value: str | None) -> None:
    if value is not None and (not value.startswith("/") or "\0" in value):
        raise FieldError(field.name, f"{value!r} is not an absolute path")


@in_schema(pattern=r"^/+[^/\x00][^\x00]*$", **{"not": {"pattern": r"(^|/)\.\.(/|$)"}})
def check_target(owner: object, field: Any, value: str) -> None:
    check_path(owner, field, value)
    if not value.strip("/") or ".." in value.split("/"):
        raise FieldError(
            field.name, f"{value!r} cannot be mounted over: name a directory below / without '..'"
        )


@in_schema(enum=["missing", "always"])
def check_pull_ahead(_: object, field: Any, value: str) -> None:
    if value == "never":
        raise FieldError(field.name, "'never' pulls nothing: write missing or always")


@in_schema(**SIGNAL_KEYWORDS)
def check_stop_signal(_: object, field: Any, value: str | None) -> None:
    if value is not None:
        try:
            parse_signal(value)
        except ValueError as error:
            raise FieldError(field.name, str(error)) from None


@in_schema(
    **{
        "if": {"properties": {"type": {"const": "tmpfs"}}, "required": ["type"]},
        "then": {"properties": {"source": {"type": "null"}}},
        "else": {
            "properties": {"source": {"type": "string"}, "size": {"type": "null"}},
            "required": ["source"],
        },
    }
)
def check_mount(mount: Any) -> None:
    """The rules between a mount's fields; called by `model.Mount` once all are set."""
    if mount.type == "bind":
        if mount.source is None:
            raise FieldError("source", "a bind mount needs the host's path")
        if mount.size is not None:
            raise FieldError("size", "only a tmpfs has a size")
    elif mount.source is not None:
        raise FieldError("source", "a tmpfs has no source")


# -- the mesh, of milld's configuration -----------------------------------------------------------------------------


def parse_mesh_range(value: object) -> IPv4Network:
    """The addresses that tasks may have, or ValueError."""
    text = str(value)
    try:
        network = IPv4Network(text)
    except ValueError as error:
        why = "it has host bits set" if "host bits" in str(error) else "write it as 10.99.0.0/16"
        raise ValueError(f"{text!r} is not an IPv4 range: {why}") from None
    if network.prefixlen > LEAST_MESH_PREFIX:
        raise ValueError(f"{text!r} is too small: /{LEAST_MESH_PREFIX} is the least, a /16 holds 64 nodes")
    if network.prefixlen == 0 or network.is_loopback or network.is_multicast or network.is_link_local:
        raise ValueError(f"{text!r} cannot be given to tasks: choose a private range such as 10.99.0.0/16")
    return network


def parse_mesh_link(value: object) -> str:
    if value not in MESH_LINKS:
        raise ValueError(f"{value!r} is not one of {', '.join(MESH_LINKS)}")
    return str(value)


def parse_port(value: object) -> int:
    text = str(value)
    if re.fullmatch(r"[0-9]{1,5}", text) is None or not 1 <= int(text) <= _MOST_PORT:
        raise ValueError(f"{value!r} is not a port: write 1 to {_MOST_PORT}")
    return int(text)


def check_underlay(_: object, field: Any, value: str) -> None:
    try:
        IPv4Address(value)
    except ValueError:
        raise FieldError(field.name, f"{value!r} is not an IPv4 address") from None


def check_subnet(_: object, field: Any, value: str) -> None:
    try:
        IPv4Network(value)
    except ValueError:
        raise FieldError(field.name, f"{value!r} is no IPv4 network such as 10.99.4.0/22") from None
