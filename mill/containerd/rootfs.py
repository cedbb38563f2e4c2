"""A look into a container's root filesystem before it starts: its accounts, for USER, and the folders of its VOLUMEs.

Linux mounts by libc, no process.

The snapshot's mounts are mounted for a moment on a folder of the task's; paths inside are opened with openat2(2) and
RESOLVE_IN_ROOT, since an image's symlinks must not lead onto the host. Runs in a thread; `runtime` calls it once an image.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

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
_KEPT = 256
"""Images whose looks are remembered; each is a few kB."""

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


@attrs.frozen
class Seen:
    """`folders` by the names that were asked for: the path that each leads to within the image, None where nothing is."""

    accounts: Accounts
    folders: Mapping[str, str | None] = attrs.field(factory=dict)


@attrs.define
class Looks:
    """What was seen, by an image's chain id and the folders asked for; of the latest `_KEPT` only."""

    seen: dict[tuple[str, tuple[str, ...]], Seen] = attrs.field(factory=dict)

    def keep(self, key: tuple[str, tuple[str, ...]], seen: Seen) -> None:
        if len(self.seen) >= _KEPT:
            self.seen.pop(next(iter(self.seen)))
        self.seen[key] = seen


def look(mounts: Sequence[types_pb2.Mount], folder: Path, names: Sequence[str] = ()) -> Seen:
    """What a container on *mounts* would see: passwd, group, and the folders *names*. Blocks; leaves nothing mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = 0
    try:
        for mount in mounts:
            _mount(mount, folder)
            mounted += 1
        accounts = Accounts(_text(folder, "etc/passwd"), _text(folder, "etc/group"))
        return Seen(accounts, dict(_folders(folder, names)))
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
    with _opened(root, name) as found:
        if found is None or not stat.S_ISREG(os.fstat(found).st_mode):
            return ""
        with Path(f"/proc/self/fd/{found}").open("rb") as file:
            return file.read(_FILE_BYTES).decode("utf-8", "replace")


def _folders(root: Path, names: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each of *names* that is a folder, with its path free of symlinks, or that is nothing."""
    top = root.resolve()
    for name in names:
        with _opened(root, name) as found:
            if found is None:
                yield name, None
            elif stat.S_ISDIR(os.fstat(found).st_mode):
                real = Path(f"/proc/self/fd/{found}").readlink()
                yield name, str("/" / real.relative_to(top))


@contextmanager
def _opened(root: Path, name: str) -> Iterator[int | None]:
    """A descriptor that only names what is at *name* within *root*; None where nothing is."""
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = open_in_root(base, name)
    finally:
        os.close(base)
    try:
        yield found
    finally:
        if found is not None:
            os.close(found)


def open_in_root(base: int, name: str) -> int | None:
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
