"""The host as checks see it: where to look, and looks that never raise. Tests put folders of theirs in the place of /proc and /sys."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import attrs

from mill.config import Config
from mill.containerd.embedded import search_path
from mill.containerd.session import Features
from mill.daemon.datadir import LOCK_NAME, NODE_NAME

COMMAND_TIMEOUT_S = 10.0
"""For a program to tell its version; it takes 20 ms."""


@attrs.frozen
class Containerd:
    """The containerd that milld would use. Without `features` it does not answer now, and `fault` says why where it should."""

    socket: str
    embedded: bool
    features: Features | None = None
    fault: str = ""


@attrs.frozen
class Host:
    """What milld is set up as, and where its host shows what it is. `containerd` is looked at first, for all others."""

    config: Config
    proc: Path = Path("/proc")
    sys_fs_cgroup: Path = Path("/sys/fs/cgroup")
    path: str = attrs.field(factory=search_path)
    euid: int = attrs.field(factory=os.geteuid)
    now: Callable[[], float] = time.time
    containerd: Containerd | None = None

    @property
    def data_dir(self) -> Path:
        return self.config.data_dir

    @property
    def nearest(self) -> Path:
        """The data directory, or the nearest directory above it that is there already."""
        path = self.data_dir
        while not path.exists() and path != path.parent:
            path = path.parent
        return path

    @property
    def node_id(self) -> str:
        """Empty before the first start."""
        return read(self.data_dir / NODE_NAME).strip()

    def which(self, program: str) -> str | None:
        """As containerd and its shims find it."""
        return shutil.which(program, path=self.path)

    def output(self, *command: str) -> str | None:
        """What *command* prints; None when it fails or hangs."""
        try:
            done = subprocess.run(  # noqa: S603 -- a program that milld would run too
                command,
                check=True,
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                errors="replace",
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout

    def processes(self) -> Iterator[tuple[int, list[str]]]:
        """Every process with its command line."""
        for folder in self.proc.iterdir():
            if folder.name.isdigit() and (line := read(folder / "cmdline")):
                yield int(folder.name), line.rstrip("\0").split("\0")

    def milld_of(self, data_dir: Path) -> int | None:
        """The process that holds the lock of *data_dir*, as the kernel knows it (proc_locks(5)); the lock is not touched.

        It has written its pid into the file: inodes alone are the same on many filesystems.
        """
        with suppress(OSError):
            inode, pid = (data_dir / LOCK_NAME).stat().st_ino, read(data_dir / LOCK_NAME).strip()
            for line in read(self.proc / "locks").splitlines():
                words = line.split()
                if words[1:5] == ["FLOCK", "ADVISORY", "WRITE", pid] and words[5].endswith(f":{inode}"):
                    return int(pid)
        return None


def read(path: Path) -> str:
    """The text; empty where there is none to read."""
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
