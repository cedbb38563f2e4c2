"""The socket that containerd listens on, seen from outside: is anybody there, and who. No grpc here.

Called by `session` before it connects and by `embedded`, which needs the listener's process.
"""

import os
import socket
import stat
import struct
from pathlib import Path

from mill.errors import SetupError

_PEER = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""

SUN_PATH_BYTES = 107
"""Longest path of a unix socket: `sun_path` of unix(7) less its final NUL."""


def check_listens(path: str) -> None:
    """Return when something listens on *path*; else SetupError with a line for each way it can be wrong."""
    if len(os.fsencode(path)) > SUN_PATH_BYTES:
        raise SetupError(f"{path}: too long for a unix socket, which may have {SUN_PATH_BYTES} bytes")
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise SetupError(f"{path} is not a socket: give the path of containerd's with --containerd")
        _connect(path).close()
    except FileNotFoundError:
        raise SetupError(f"{path} does not exist: start containerd, or use --containerd embedded") from None
    except PermissionError:
        raise SetupError(f"{path}: no permission to connect; run milld as root") from None
    except ConnectionRefusedError:
        raise SetupError(
            f"{path}: nobody listens there; start containerd, or use --containerd embedded"
        ) from None
    except BlockingIOError:
        return  # its backlog is full: somebody listens, though slowly
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror or error}") from None


def listener_pid(path: str) -> int | None:
    """The process that listens on *path*, as the kernel knows it, or None."""
    try:
        with _connect(path) as probe:
            pid: int = _PEER.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0]
    except OSError:
        return None
    return pid or None


def _connect(path: str) -> socket.socket:
    """A connection, without waiting: a unix socket accepts into its backlog at once or not at all."""
    probe = socket.socket(socket.AF_UNIX)
    probe.setblocking(False)
    try:
        probe.connect(path)
    except OSError:
        probe.close()
        raise
    return probe
