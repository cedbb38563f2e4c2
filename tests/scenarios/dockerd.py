"""Debian's Docker on a host of a test, with a containerd and all that it keeps of its own. Called by the scenario that runs it beside Mill.

Without systemd. Its bridge and its rules are in the host's network namespace, and go with it.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import attrs

from tests import leaks
from tests.images import busybox_image, write_docker_archive
from tests.pace import stretched
from tests.scenarios.places import containerd_under
from tests.world import Host

WITHIN_S = stretched(30)
"""For what takes half a second: dockerd's start and its end, a container."""


@attrs.define
class Docker:
    """One dockerd on *host*; the folder's name is that of its cgroup too."""

    folder: Path
    host: Host
    containerd: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> "Docker":
        """dockerd, once it answers."""
        kept = [f"--{name}={self.folder / name}" for name in ("data-root", "exec-root", "pidfile")]
        command = [
            "dockerd", f"--config-file={self.folder / 'daemon.json'}", f"--host=unix://{self.folder}/docker.sock",
            f"--containerd={self.containerd}", f"--cgroup-parent=/{self.folder.name}", "--oom-score-adjust=0", *kept,
        ]  # fmt: skip
        tools = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        with (self.folder / "log").open("ab") as log:
            process = self.host.do(lambda: subprocess.Popen(command, stdout=log, stderr=log, env=tools))
        self.process = process
        deadline = time.monotonic() + WITHIN_S
        while self._call("info").returncode:
            assert process.poll() is None, self._log_tail()
            assert time.monotonic() < deadline, self._log_tail()
            leaks._pause()
        return self

    def stop(self) -> None:
        """Its containers end with it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(WITHIN_S)
            self.process = None

    def ask(self, *args: str) -> str:
        """What a command of `docker` prints."""
        done = self._call(*args)
        assert done.returncode == 0, (args, done.stdout, done.stderr, self._log_tail())
        return done.stdout.strip()

    def load_busybox(self) -> "Docker":
        archive = write_docker_archive(self.folder / "busybox.tar", {"busybox:latest": busybox_image()})
        self.ask("load", "--input", str(archive))
        return self

    def _call(self, *args: str) -> "subprocess.CompletedProcess[str]":
        command = ["docker", f"--host=unix://{self.folder}/docker.sock", *args]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=WITHIN_S)

    def _log_tail(self) -> str:
        return (self.folder / "log").read_text()[-3000:]


@contextmanager
def docker(host: Host, iptables: str) -> Iterator[Docker]:
    """A Docker that is not started yet and writes its rules by *iptables*, whatever the host prefers. Nothing stays of it."""
    folder = Path(tempfile.mkdtemp(prefix="mill-docker-", dir="/tmp"))  # short: a socket's path has 108 bytes
    (folder / "daemon.json").write_text(json.dumps({"deprecated-key-path": str(folder / "key.json")}))
    (folder / "bin").mkdir()
    (folder / "bin/iptables").symlink_to(str(which(iptables)))
    site = leaks.Site(folder, folder / "no.sock", folder.name)
    try:
        with containerd_under(folder / "c") as containerd:
            made = Docker(folder, host, containerd)
            try:
                yield made
            finally:
                made.stop()
        assert leaks.processes(site) == []
        assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    finally:
        leaks.sweep(site)
        shutil.rmtree(folder, ignore_errors=True)
