"""The filter table of the old iptables: read by the kernel's own interface, written by its tool. Called by `rules`.

The interface knows whole tables only (linux/netfilter_ipv4/ip_tables.h). To read one costs microseconds, so that a look every
few seconds needs no process; where a rule has to be written, the tool does it.
"""

import ctypes
import socket
import struct
import subprocess
from pathlib import Path
from shutil import which

import structlog

_TABLES = Path("/proc/thread-self/net/ip_tables_names")
_FILTER = "filter"
TOOL = "iptables-legacy"
_TOOL_S = 10.0
_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32sI5I5III")
_ENTRIES = struct.Struct("=32sI4x")
_VERDICT_AT = 112 + 32
"""Of an entry without matches: behind `ipt_entry` and `xt_entry_target`."""
_ACCEPTED = -2
_FORWARD_HOOK = 2
_EMPTY = 4
"""Entries of a table without rules: three policies and the end."""
_DOCKER, _FORWARD = "DOCKER-USER", "FORWARD"

_libc = ctypes.CDLL(None, use_errno=True)
log = structlog.get_logger()


def ensure(bridge: str, comment: str) -> None:
    """What comes from and goes to *bridge* is accepted, where rules of the old iptables might say otherwise."""
    entries = _entries()
    if entries is not None and bridge.encode() not in entries:
        _write("-I", entries, bridge, comment)


def remove(bridge: str, comment: str) -> None:
    entries = _entries()
    if entries is not None and bridge.encode() in entries:
        _write("-D", entries, bridge, comment)


def drops() -> bool:
    """Whether the table's policy is to drop what is forwarded."""
    found = _table()
    return found is not None and found[1] != _ACCEPTED


def accepts(bridge: str) -> bool:
    """Whether there are rules for *bridge*."""
    return bridge.encode() in (_entries() or b"")


def _entries() -> bytes | None:
    """The table as the kernel keeps it; None where it is not in use, or lets everything through."""
    found = _table()
    if found is None:
        return None
    count, policy, entries = found
    return None if count == _EMPTY and policy == _ACCEPTED else entries


def _table() -> tuple[int, int, bytes] | None:
    """How many entries it has, what becomes of what is forwarded if none matches, and the entries."""
    try:
        if _FILTER not in _TABLES.read_text(encoding="ascii").split():
            return None
        with socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as raw:
            info = _INFO.unpack(_ask(raw, _GET_INFO, _FILTER.encode(), _INFO.size))
            count, size = info[-2:]
            asked = _ENTRIES.pack(_FILTER.encode(), size)
            entries = _ask(raw, _GET_ENTRIES, asked, _ENTRIES.size + size)[_ENTRIES.size :]
    except OSError:
        return None
    (policy,) = struct.unpack_from("=i", entries, info[2 + _FORWARD_HOOK] + _VERDICT_AT)
    return count, policy, entries


def _ask(raw: socket.socket, option: int, said: bytes, size: int) -> bytes:
    """getsockopt(2) with something in the buffer, for which Python has no call."""
    buffer = ctypes.create_string_buffer(said, size)
    length = ctypes.c_uint32(size)
    if _libc.getsockopt(raw.fileno(), socket.IPPROTO_IP, option, buffer, ctypes.byref(length)):
        raise OSError(ctypes.get_errno(), "getsockopt")
    return buffer.raw


def _write(how: str, entries: bytes, bridge: str, comment: str) -> None:
    tool = which(TOOL)
    if tool is None:
        return
    chain = _DOCKER if _DOCKER.encode() in entries else _FORWARD
    for direction in ("-i", "-o"):
        rule = [chain, direction, bridge, "-m", "comment", "--comment", comment, "-j", "ACCEPT"]
        done = subprocess.run(  # noqa: S603 -- the tool of PATH, with our own arguments
            [tool, "-w", how, *rule], check=False, capture_output=True, text=True, timeout=_TOOL_S
        )
        if done.returncode:
            log.warning("iptables-legacy took no rule", rule=" ".join(rule), why=done.stderr.strip())
