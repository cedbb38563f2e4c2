"""A real milld in a process of its own, as tests drive it: start, kill -9, restart, stop with a check for leaks.

`Node` is blocking on purpose: a fixture of any scope can own one, and a trio test calls its slow methods through
`trio.to_thread.run_sync`. It knows milld by its command line, its ready line and its API alone, never by its modules.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import httpx

from tests import leaks
from tests.pace import SLOWNESS, stretched

ROOT = Path(__file__).parent.parent
MILLD = [sys.executable, "-m", "mill.daemon.main"]
MILL = [sys.executable, "-m", "mill.cli.main"]
READY_WITHIN_S = stretched(30)
"""A start takes 2 s; on a machine that runs other tests at once, more."""
STOP_WITHIN_S = stretched(5)
"""What the design promises of SIGTERM."""
TROUBLE = ("Traceback", '"exception"', *(["did not stop in time"] if SLOWNESS <= 1 else []))
"""What milld's log never holds: errors that nobody foresaw, and a shutdown that had to be cut off."""
OPTIONS = dict(option.split("=", 1) for option in os.environ.get("MILL_TEST_OPTIONS", "").split())
"""Options for every milld that says nothing else, such as ``runtime=crun systemd-cgroup=true``."""
RUNTIME = OPTIONS.get("runtime", "runc")
TERMINAL = frozenset({"stopped", "failed"})


class Broken(AssertionError):
    """milld did not do what it owes every test: it did not start or stop, or it left something."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


@attrs.define
class Node:
    """One node under /tmp (a unix socket's path has 108 bytes at most). `options` are milld's, without the dashes."""

    name: str = "n1"
    options: Mapping[str, str] = attrs.field(factory=lambda: {"cpu": "64", "memory": "64G"})
    config: str = ""
    environ: Mapping[str, str] = attrs.field(factory=dict)
    program: list[str] = attrs.field(factory=lambda: MILLD)
    home: Path = attrs.field(factory=lambda: Path(tempfile.mkdtemp(prefix="mill-", dir="/tmp")))
    port: int = attrs.field(factory=free_port)
    dns_port: int = attrs.field(factory=free_port)
    umask: int = -1
    process: subprocess.Popen[bytes] | None = None
    ready: dict[str, str] = attrs.field(factory=dict)
    node_id: str = ""
    namespaces_before: frozenset[str] = attrs.field(factory=leaks.network_namespaces)
    known: set[str] = attrs.field(factory=set)

    @property
    def data_dir(self) -> Path:
        return self.home / "d"

    @property
    def log(self) -> Path:
        return self.home / "milld.log"

    @property
    def address(self) -> str:
        return self.ready.get("api", f"http://127.0.0.1:{self.port}")

    @property
    def token(self) -> str:
        return (self.data_dir / "admin.token").read_text().strip()

    @property
    def socket(self) -> Path:
        return Path(self.ready["containerd"])

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    # -- life -------------------------------------------------------------------------------------------------------

    def command(self, **options: str) -> list[str]:
        """milld's command line; *options* over the node's own."""
        said = {
            "data-dir": str(self.data_dir), "containerd": "embedded", "listen": f"127.0.0.1:{self.port}",
            "dns-listen": f"127.0.0.1:{self.dns_port}", "name": self.name,
            **OPTIONS, **self.options, **{key.replace("_", "-"): value for key, value in options.items()},
        }  # fmt: skip
        if self.config:
            (self.home / "milld.toml").write_text(self.config)
            said["config"] = str(self.home / "milld.toml")
        return [*self.program, *(f"--{key}={value}" for key, value in said.items())]

    def env(self) -> dict[str, str]:
        """The environment without any MILL_ of ours; for commands on this node with what they need to find it."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MILL_")}
        return {
            **clean,
            "PYTHONPATH": str(ROOT),
            "TERM": "dumb",
            "COLUMNS": "200",
            "MILL_DATA_DIR": str(self.data_dir),
        }

    def start(self) -> "Node":
        """Start milld and return once it says that it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
                env={**self.env(), **self.environ}, cwd="/", umask=self.umask,
            )  # fmt: skip
        line = self._first_line()
        if not line.startswith("milld ready: "):
            self.kill9()
            raise Broken(f"milld did not get ready: {line!r}\n{self.log_tail()}")
        self.ready = dict(part.split("=", 1) for part in line.split(": ", 1)[1].split())
        self.node_id = self.api("GET", "/v1/status").json()["node_id"]
        return self

    def _first_line(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        out = self.process.stdout.fileno()
        text = b""
        until = time.monotonic() + READY_WITHIN_S
        while (
            not text.endswith(b"\n") and select.select([out], [], [], max(0.0, until - time.monotonic()))[0]
        ):
            read = os.read(out, 4096)
            if not read:
                break
            text += read
        return text.decode().strip()

    def kill9(self) -> None:
        """As a crash: nothing gets a chance to clean up."""
        self._end(signal.SIGKILL)

    def terminate(self) -> float:
        """SIGTERM, as systemd stops it; seconds until it was gone."""
        began = time.monotonic()
        self._end(signal.SIGTERM)
        return time.monotonic() - began

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            code = self.process.wait(STOP_WITHIN_S + 2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = -signal.SIGKILL
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        if number == signal.SIGTERM and code != 0:
            raise Broken(f"milld ended with {code} on SIGTERM\n{self.log_tail()}")

    def restart(self, how: str = "terminate") -> None:
        """Stop milld by `terminate` or `kill9` and start it again on the same data directory."""
        {"terminate": self.terminate, "kill9": self.kill9}[how]()
        self.start()

    # -- talking to it ----------------------------------------------------------------------------------------------

    def api(self, method: str, path: str, **request: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", **request.pop("headers", {})}
        return httpx.request(
            method,
            self.address + path,
            headers=headers,
            timeout=stretched(70),
            verify=self.verify(),
            trust_env=False,  # looking for proxies takes longer than most calls
            **request,
        )

    def verify(self) -> ssl.SSLContext | bool:
        """Whom its API's certificate must be by; nothing on loopback, where it speaks plain HTTP."""
        if self.address.startswith("http:"):
            return False
        return ssl.create_default_context(cafile=self.data_dir / "ca.pem")

    def mill(self, *args: str, check: bool = True, **run: Any) -> subprocess.CompletedProcess[str]:
        """The `mill` command on this node, run to its end."""
        done = subprocess.run(
            [*MILL, *args],
            check=False,
            capture_output=True,
            text=True,
            env=self.env(),
            timeout=stretched(120),
            **run,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"mill {' '.join(args)} ended with {done.returncode}: {done.stderr}{done.stdout}"
            )
        return done

    def load_busybox(self) -> "Node":
        archive = self.home / "busybox.tar"
        subprocess.run(
            [sys.executable, ROOT / "examples/busybox_image.py", archive], check=True, capture_output=True
        )
        with archive.open("rb") as body:
            answer = self.api("POST", "/v1/images/load", content=body)
        assert answer.status_code == 200, answer.text
        return self

    def records(self) -> list[dict[str, Any]]:
        """Every record, terminal ones too."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self.api(
                "GET",
                "/v1/tasks",
                params={"all": "true", "limit": "500", **({"after": after} if after else {})},
            )
            found += page.json()["tasks"]
            after = page.json()["next"]
            if not after:
                return found

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def log_tail(self, lines: int = 30) -> str:
        return (
            "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""
        )

    # -- the end ----------------------------------------------------------------------------------------------------

    def site(self) -> leaks.Site:
        return leaks.Site(
            data_dir=self.data_dir,
            socket=self.data_dir / "containerd/containerd.sock",
            cgroup=self.cgroup(),
            ids=frozenset(self.known),
            namespaces_before=self.namespaces_before,
        )

    def cgroup(self, task_id: str = "") -> str:
        """Where the node's, or one of its tasks', control group is below each hierarchy."""
        node = self.node_id[:8] or "nameless"  # else a node that never got ready would have that of all
        if OPTIONS.get("systemd-cgroup") != "true":
            return f"mill/{node}/{task_id}".rstrip("/")
        name = task_id.replace("-", r"\x2d")
        task = f"/mill-{node}-{name}.slice/mill-{node}-{task_id}.scope" if task_id else ""
        return f"mill.slice/mill-{node}.slice{task}"

    def at_rest(self) -> list[int]:
        """The pids a node without tasks has: milld, one containerd, one log holder."""
        kinds: dict[str, int] = {}
        for pid, line in leaks.processes(self.site()):
            if self.process is not None and pid == self.process.pid:
                kinds["milld"] = pid
            elif "holder" in line:
                kinds.setdefault("holder", pid)
            elif Path(line.split(" ", 1)[0]).name == "containerd":
                kinds.setdefault("containerd", pid)
        return list(kinds.values())

    def leaks(self) -> list[str]:
        """What an idle node has too much, after its own cleaning had time."""
        self.known |= {record["id"] for record in self.records()}
        return leaks.wait_clean(self.site(), allowed=self.at_rest)

    def end_all(self) -> None:
        """Kill whatever a test left running: that is the test's doing, no leak of the node's."""
        for record in self.records():
            if record["status"] not in TERMINAL:
                self.api("DELETE", f"/v1/tasks/{record['id']}", params={"grace": "0"})
        for record in self.records():
            if record["status"] not in TERMINAL:
                self.api("GET", f"/v1/tasks/{record['id']}", params={"wait": "terminal", "timeout": "20"})

    def stop(self) -> None:
        """End the node and remove it; raises `Broken` with all that it left, or a traceback out of its log."""
        found: list[str] = []
        try:
            if self.process is None or self.process.poll() is not None:
                self.start()
            self.end_all()
            found += self.leaks()
            if (took_s := self.terminate()) > STOP_WITHIN_S:
                found.append(f"milld took {took_s:.1f} s to stop")
            found += leaks.wait_clean(self.site())
            log = self.log.read_text()
            found += [f"milld's log: {what}\n{self.log_tail()}" for what in TROUBLE if what in log]
        except (Broken, httpx.HTTPError) as error:
            found.append(f"{type(error).__name__}: {error}")
        finally:
            self.destroy()
        if found:
            raise Broken(f"node {self.name} left:\n" + "\n".join(found))

    def destroy(self) -> None:
        """By force and without questions."""
        with contextlib.suppress(Broken):
            self.kill9()
        leaks.sweep(self.site())
        shutil.rmtree(self.home, ignore_errors=True)


MakeNode = Callable[..., Node]
