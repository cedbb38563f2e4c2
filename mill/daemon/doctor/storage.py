"""The data directory: usable, private, on a filesystem that suits it, with room; and whether overlayfs can be mounted there."""

import ctypes
import errno
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import attrs

from mill.containerd.rootfs import unmount
from mill.daemon.doctor.findings import Finding, ok, problem, warning
from mill.daemon.doctor.host import Host, read
from mill.units import GIB, MIB, format_size

LEAST_BYTES, FEW_BYTES = 256 * MIB, 2 * GIB
"""Below the first nothing much can be pulled or logged; below the second a few images fill it."""
LEAST_INODES, FEW_INODES = 1_000, 50_000
"""An image unpacks into thousands of files."""
NETWORKED = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs"})
PASSING = frozenset({"tmpfs", "ramfs"})
CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = 0x44000
"""MS_REC | MS_PRIVATE of mount(2): what is mounted here is seen by nobody else."""
TRIAL_S = 8.0

_libc = ctypes.CDLL(None, use_errno=True)


@attrs.frozen
class Room:
    """What statvfs(3) says of the filesystem. No inodes at all: it makes them as it needs them (btrfs)."""

    free_bytes: int
    inodes: int
    free_inodes: int


def data_dir(host: Host) -> Iterator[Finding]:
    path = host.data_dir
    kind, mounted_on = filesystem_of(host.nearest, read(host.proc / "self" / "mountinfo"))
    if path.exists() and not path.is_dir():
        yield problem("data", f"{path} is not a directory", "remove it, or choose another with --data-dir")
        return
    fault = _write_fault(host.nearest)
    if fault is not None and fault.errno != errno.ENOSPC:  # of that `disk` speaks
        yield problem(
            "data",
            f"{path} cannot be written: {fault.strerror}",
            f"mount {mounted_on} writable, or choose another with --data-dir",
        )
    if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        yield warning("data", f"{path} is open to other users (mode {mode:04o})", f"chmod 700 {path}")
    yield from judge_filesystem(kind, mounted_on)
    if fault is None:
        there = "" if path.exists() else ", made at the first start"
        yield ok("data", f"{path} on {mounted_on} ({kind}){there}")


def _write_fault(folder: Path) -> OSError | None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"mill")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def filesystem_of(path: Path, mountinfo: str) -> tuple[str, str]:
    """(type, mount point) of the filesystem that *path* lies on; proc_pid_mountinfo(5)."""
    real = path.resolve()
    found = ("unknown", "/")
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        where = before.split()[4].encode().decode("unicode_escape")  # blanks are written as \040
        if real.is_relative_to(where) and len(where) >= len(found[1]):
            found = (after.split()[0], where)
    return found


def judge_filesystem(kind: str, mounted_on: str) -> Iterator[Finding]:
    if kind in NETWORKED or kind.startswith("fuse"):
        yield warning(
            "data",
            f"{mounted_on} is a network or user-space filesystem ({kind})",
            "put --data-dir on a local disk",
        )
    if kind in PASSING:
        yield warning(
            "data",
            f"{mounted_on} is memory ({kind}): a reboot loses records and logs",
            "put --data-dir on a disk",
        )


# -- room -----------------------------------------------------------------------------------------------------------


def disk(host: Host) -> Iterator[Finding]:
    seen = os.statvfs(host.nearest)
    yield from judge_room(Room(seen.f_bavail * seen.f_frsize, seen.f_files, seen.f_favail), str(host.nearest))


def judge_room(room: Room, where: str) -> Iterator[Finding]:
    advice = (f"make room on the filesystem of {where}, or choose another with --data-dir",)
    free = f"{format_size(room.free_bytes)} free"
    inodes = f"{room.free_inodes} inodes free" if room.inodes else "inodes without end"
    if room.free_bytes < LEAST_BYTES:
        yield problem("disk", f"full: {free}; pulls, logs and records need room", *advice)
    elif room.free_bytes < FEW_BYTES:
        yield warning("disk", f"{free}: few images fit", *advice)
    if room.inodes and room.free_inodes < LEAST_INODES:
        yield problem("disk", f"full: {inodes}; an image needs thousands", *advice)
    elif room.inodes and room.free_inodes < FEW_INODES:
        yield warning("disk", f"{inodes}: few images fit", *advice)
    if room.free_bytes >= FEW_BYTES and (not room.inodes or room.free_inodes >= FEW_INODES):
        yield ok("disk", f"{free}, {inodes}")


# -- overlayfs ------------------------------------------------------------------------------------------------------


def overlay(host: Host) -> Iterator[Finding]:
    """By the word of the containerd that answers; else, where milld starts its own, by a trial."""
    found = host.containerd
    if found is None or (found.features is None and not found.embedded):
        return
    if found.features is not None and not found.features.overlayfs:
        yield judge_overlay("its containerd has no overlayfs snapshotter")
    elif not found.embedded:
        yield judge_overlay("")
    elif _write_fault(host.nearest) is None:  # else nothing can be tried there, and `data` or `disk` says why
        yield judge_overlay(_trial(host.nearest))


def judge_overlay(why: str) -> Finding:
    if not why:
        return ok("overlayfs", "usable")
    return warning(
        "overlayfs",
        f"not usable: {why}; the native snapshotter copies each image for each task",
        "modprobe overlay, or put --data-dir on ext4 or xfs (with ftype=1)",
    )


def _trial(folder: Path) -> str:
    """Why overlayfs cannot be mounted on *folder*, by mounting one in a namespace that ends with the thread."""
    try:
        place = Path(tempfile.mkdtemp(prefix="mill-doctor-", dir=folder))
    except OSError as error:
        return error.strerror or str(error)
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(_mount_one(place)), daemon=True)
    thread.start()
    thread.join(TRIAL_S)
    shutil.rmtree(place, ignore_errors=True)
    return said[0] if said else "the trial mount hangs"


def _mount_one(place: Path) -> str:
    try:
        for name in ("lower", "upper", "work", "merged"):
            (place / name).mkdir()
        (place / "lower" / "file").write_text("lower")
        _check(_libc.unshare(CLONE_NEWNS))
        _check(_libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None))
        os.chdir(
            place
        )  # this thread's alone, after unshare(2): no comma or colon of the path gets into the options
        _check(
            _libc.mount(b"overlay", b"merged", b"overlay", 0, b"lowerdir=lower,upperdir=upper,workdir=work")
        )
        try:
            (place / "merged" / "file").write_text("upper")
            (place / "merged" / "file").rename(place / "merged" / "moved")
        finally:
            unmount(place / "merged")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
