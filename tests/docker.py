"""Debian's dockerd with a containerd of its own, and all that they keep in a folder of their own: what benches hold Mill against.

It touches nothing of the machine's own Docker, adds no rule to its firewall and needs no network: images come from
archives, containers share the host's network. Spoken to by its API on a unix socket. Needs Debian's docker.io.
"""

import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import httpx

from tests import leaks
from tests.pace import stretched

READY_WITHIN_S = stretched(30)
STOP_WITHIN_S = stretched(15)
CALL_WITHIN_S = stretched(120)
POLL_S = 0.02

_CONTAINERD = """\
version = 2
root = "{folder}/containerd"
state = "{folder}/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/containerd.sock"
"""


@attrs.frozen
class Docker:
    """One dockerd that runs; the folder's name is that of its containers' cgroup too."""

    folder: Path
    http: httpx.Client
    pids: Sequence[int]
    """containerd's and dockerd's."""

    def call(self, method: str, path: str, **request: Any) -> httpx.Response:
        answer = self.http.request(method, path, **request)
        assert answer.is_success, (path, answer.text)
        return answer

    def load(self, archive: Path) -> None:
        with archive.open("rb") as body:
            answer = self.call("POST", "/images/load", content=body)
        assert "errorDetail" not in answer.text, answer.text

    def create(self, image: str, command: Sequence[str]) -> str:
        """A container's id; its log is what dockerd's default is, a json-file."""
        host = {"NetworkMode": "host", "LogConfig": {"Type": "json-file"}}
        body = {"Image": image, "Cmd": list(command), "HostConfig": host}
        return str(self.call("POST", "/containers/create", json=body).json()["Id"])

    def start(self, id_: str) -> None:
        self.call("POST", f"/containers/{id_}/start")

    def wait(self, id_: str) -> dict[str, Any]:
        """What is known of it once it has exited."""
        self.call("POST", f"/containers/{id_}/wait")
        return dict(self.call("GET", f"/containers/{id_}/json").json())

    def remove(self, id_: str) -> None:
        self.call("DELETE", f"/containers/{id_}", params={"force": "true"})

    def remove_all(self) -> None:
        for container in self.call("GET", "/containers/json", params={"all": "true"}).json():
            self.remove(container["Id"])


def _commands(folder: Path) -> tuple[list[str], list[str]]:
    (folder / "containerd.toml").write_text(_CONTAINERD.format(folder=folder))
    kept = {"deprecated-key-path": str(folder / "key.json")}  # no flag says so; otherwise in /etc/docker
    (folder / "daemon.json").write_text(json.dumps(kept))
    dockerd = {
        "config-file": folder / "daemon.json", "data-root": folder / "docker", "exec-root": folder / "run/docker",
        "pidfile": folder / "docker.pid", "host": f"unix://{folder}/docker.sock", "containerd": folder / "containerd.sock",
        "cgroup-parent": f"/{folder.name}", "exec-opt": "native.cgroupdriver=cgroupfs", "bridge": "none", "iptables": "false",
        "ip-forward": "false", "oom-score-adjust": 0,
    }  # fmt: skip
    return (
        ["containerd", f"--config={folder / 'containerd.toml'}"],
        ["dockerd", *(f"--{name}={value}" for name, value in dockerd.items())],
    )


@contextmanager
def _running(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Until the end of the block, whatever happens in it."""
    with (
        log.open("ab") as out,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_ready(docker: Docker, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx.TransportError):
            if docker.http.get("/_ping").is_success:
                return
        time.sleep(POLL_S)
    raise AssertionError(f"dockerd does not answer:\n{log.read_text()[-3000:]}")


@contextmanager
def docker() -> Iterator[Docker]:
    """A dockerd for a while; nothing stays of it."""
    folder = Path(tempfile.mkdtemp(prefix="mill-docker-", dir="/tmp"))
    site = leaks.Site(data_dir=folder, socket=folder / "containerd.sock", cgroup=folder.name)
    try:
        with ExitStack() as running:
            log = folder / "docker.log"
            containerd, dockerd = (running.enter_context(_running(one, log)) for one in _commands(folder))
            way = httpx.HTTPTransport(uds=str(folder / "docker.sock"))
            http = running.enter_context(
                httpx.Client(base_url="http://docker", transport=way, timeout=CALL_WITHIN_S)
            )
            made = Docker(folder, http, [containerd.pid, dockerd.pid])
            _wait_ready(made, dockerd, log)
            yield made
            made.remove_all()
        subprocess.run(["umount", folder / "run/docker/netns/default"], check=False)  # dockerd leaves it
        here = (
            leaks.network_namespaces()
        )  # others may have made some meanwhile; its own are mounts in its folder
        left = leaks.wait_clean(attrs.evolve(site, namespaces_before=here))
        assert not left, left
    finally:
        leaks.sweep(site)
        shutil.rmtree(folder, ignore_errors=True)
