"""Debian's podman, with all that it keeps in a folder of its own: what runs an image elsewhere than in Mill does with it.

Called by the scenario that compares the two. It works without systemd, on a hybrid cgroup hierarchy, and needs no network:
images come from a registry on loopback.
"""

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from tests import leaks

RUN_WITHIN_S = 60.0
OPEN_FILES = (1024, min(524_288, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
CONFIG = '[engine]\nlock_type = "file"\n'
"""Nothing of the machine's own configuration; and no locks in shared memory, of which all podmans of a machine have but one."""
PROCESSES = (4096, 4096)
"""Less than podman's defaults, which a machine without CAP_SYS_RESOURCE may not give; of open files as many as Mill gives."""


@attrs.frozen
class Podman:
    """One podman; the folder's name is that of its cgroup too."""

    folder: Path

    def command(self, *args: str) -> list[str]:
        """podman's command line for *args*."""
        kept = [f"--{name}={self.folder / name}" for name in ("root", "runroot", "tmpdir")]
        return [
            "podman", *kept, "--storage-driver=overlay", "--cgroup-manager=cgroupfs", "--runtime=runc",
            "--events-backend=none", *args,
        ]  # fmt: skip

    def run_command(self, image: str, flags: Sequence[str], args: Sequence[str]) -> list[str]:
        """Its `run` of *image*, attached, on no network, gone at its end."""
        return self.command(
            "run", "--rm", "--quiet", "--pull=missing", "--tls-verify=false", "--network=none", "--log-driver=none",
            f"--cgroup-parent=/{self.folder.name}", *_ulimits(), *flags, image, *args,
        )  # fmt: skip

    def run(
        self, image: str, flags: Sequence[str], args: Sequence[str]
    ) -> "subprocess.CompletedProcess[bytes]":
        return self._call(self.run_command(image, flags, args))

    def start(self, image: str, flags: Sequence[str], args: Sequence[str]) -> "subprocess.Popen[bytes]":
        """One that runs on, with pipes for what it prints."""
        return subprocess.Popen(
            self.run_command(image, flags, args),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env(),
        )  # fmt: skip

    def ask(self, *args: str) -> str:
        """What a command other than `run` answers."""
        done = self._call(self.command(*args))
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "HOME": str(self.folder),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
        }

    def _call(self, command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=RUN_WITHIN_S,
            env=self.env(),
        )

    def remove(self) -> None:
        """Containers, mounts, cgroups and files."""
        self._call(self.command("rm", "--all", "--force", "--time=0"))
        subprocess.run(["umount", "--lazy", self.folder / "root/overlay"], check=False, capture_output=True)
        for top in [leaks.CGROUPS, *leaks.CGROUPS.iterdir()]:
            for group, _, _ in os.walk(top / self.folder.name, topdown=False):
                with suppress(OSError):
                    Path(group).rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)


def _ulimits() -> Iterator[str]:
    for name, limits in (("nofile", OPEN_FILES), ("nproc", PROCESSES)):
        yield f"--ulimit={name}={limits[0]}:{limits[1]}"


@contextmanager
def podman() -> Iterator[Podman]:
    """A podman for a while; nothing stays of it."""
    folder = Path(tempfile.mkdtemp(prefix="mill-podman-"))
    (folder / "containers.conf").write_text(CONFIG)
    for name in ("root", "runroot", "tmpdir"):
        (folder / name).mkdir()
    made = Podman(folder)
    try:
        yield made
    finally:
        made.remove()
