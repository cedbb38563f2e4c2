"""A look into a container's root filesystem before it starts: its accounts, for USER. Linux mounts by libc, no process.

The snapshot's mounts are mounted for a moment on a folder of the task's; paths inside are opened with openat2(2) and
RESOLVE_IN_ROOT, since an image's symlinks must not lead onto the host. Runs in a thread; `runtime` calls it once an image.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mill.containerd.proto import types_pb2
from mill.containerd.users import Accounts
from mill.errors import StartError

MS_RDONLY = 1
MS_BIND = 4096
MNT_DETACH = 2
_RESOLVE_IN_ROOT = 0x10
_SYS_OPENAT2 = 437
_FILE_BYTES = 1024 * 1024
"""An /etc/passwd beyond it is no such file."""
_OPTIONS_BYTES = 4096
_LOWER = "lowerdir="
_TRIES = 100

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def read_accounts(mounts: Sequence[types_pb2.Mount], folder: Path) -> Accounts:
    """The passwd and group files that a container on *mounts* would see. Blocks; leaves nothing mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = 0
    try:
        for mount in mounts:
            _mount(mount, folder)
            mounted += 1
        return Accounts(_text(folder, "etc/passwd"), _text(folder, "etc/group"))
    except OSError as error:
        raise StartError("runtime", f"cannot look into the image's files: {error.strerror}") from None
    finally:
        for _ in range(mounted):
            unmount(folder)
        folder.rmdir()


def unmount(folder: Path) -> None:
    """Detach what is mounted on *folder*; no error if nothing is."""
    _libc.umount2(os.fsencode(folder), MNT_DETACH)


def _mount(mount: types_pb2.Mount, folder: Path) -> None:
    flags, data = MS_RDONLY, []
    for option in mount.options:
        if option in {"bind", "rbind"}:
            flags |= MS_BIND
        elif option not in {"ro", "rw"}:
            data.append(option)
    with _shortened(data) as options:
        result = _libc.mount(
            os.fsencode(mount.source),
            os.fsencode(folder),
            os.fsencode(mount.type),
            flags,
            os.fsencode(",".join(options)) or None,
        )
        number = ctypes.get_errno()
    if result != 0:
        raise OSError(number, os.strerror(number))


@contextmanager
def _shortened(options: list[str]) -> Iterator[list[str]]:
    """*options*, the many layers of an overlay by paths through a descriptor of the folder that holds all of them.

    mount(2) takes one page of options, and an image of fifty layers needs more than that.
    """
    layers = next((option for option in options if option.startswith(_LOWER)), _LOWER).removeprefix(_LOWER)
    if len(",".join(options)) < _OPTIONS_BYTES or ":" not in layers:
        yield options
        return
    above = os.path.commonpath(layers.split(":"))
    descriptor = os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = [f"/proc/self/fd/{descriptor}/{os.path.relpath(one, above)}" for one in layers.split(":")]
        yield [f"{_LOWER}{':'.join(short)}" if o.startswith(_LOWER) else o for o in options]
    finally:
        os.close(descriptor)


def _text(root: Path, name: str) -> str:
    """The file's beginning; empty where there is none, or something else: opening a device can have effects."""
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = _open_in_root(base, name)
    finally:
        os.close(base)
    if found is None:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return ""
        with Path(f"/proc/self/fd/{found}").open("rb") as file:
            return file.read(_FILE_BYTES).decode("utf-8", "replace")
    finally:
        os.close(found)


def _open_in_root(base: int, name: str) -> int | None:
    """A descriptor that only names what is at *name* within *base*."""
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    for _ in range(_TRIES):
        found: int = _libc.syscall(_SYS_OPENAT2, base, name.encode(), ctypes.byref(how), ctypes.sizeof(how))
        if found >= 0:
            return found
        number = ctypes.get_errno()
        if number in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return None
        if number != errno.EAGAIN:  # else something on the host was mounted or renamed just now: openat2(2)
            break
    raise OSError(number, os.strerror(number))
