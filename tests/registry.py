"""A real registry on loopback (Debian's docker-registry), open or with a password, that counts what it was asked for.

`running` starts it on a port of its own and stops it by pid. Called by the tests of pulling and by scenarios.
"""

import hashlib
import queue
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

STARTS_WITHIN_S = 20.0
LINES_SETTLE_S = 5.0
USERNAME = "mill"
PASSWORD = "s3cret:pass"

_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")
_REQUEST = re.compile(r'"(GET|HEAD|PUT|POST|PATCH) (/v2/\S*) HTTP/1\.1" (\d+)')

_CONFIG = """
version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:0", secret: tests}}
{auth}
"""
_AUTH = "auth: {{htpasswd: {{realm: tests, path: {path}}}}}"


@attrs.define
class Registry:
    """One that runs. `requests` grows as it answers: (method, path, status)."""

    host: str
    root: Path
    pid: int
    creds: tuple[str, str] | None = None
    requests: list[tuple[str, str, int]] = attrs.field(factory=list)

    def count(self, method: str, part: str, status: int = 200) -> int:
        return sum(1 for m, path, s in self.requests if m == method and part in path and s == status)

    def plant(self, repository: str, data: bytes) -> None:
        """Put a blob where the registry keeps them: for large ones, which take it seconds to receive."""
        digest = hashlib.sha256(data).hexdigest()
        storage = self.root / "data/docker/registry/v2"
        blob = storage / "blobs/sha256" / digest[:2] / digest
        link = storage / "repositories" / repository / "_layers/sha256" / digest
        for folder in (blob, link):
            folder.mkdir(parents=True)
        (blob / "data").write_bytes(data)
        (link / "link").write_text(f"sha256:{digest}")


@contextmanager
def running(*, private: bool = False) -> Iterator[Registry]:
    """A registry with a data directory of its own; *private*: only `USERNAME` with `PASSWORD` may read or write."""
    with tempfile.TemporaryDirectory(prefix="mill-registry-") as folder:
        root = Path(folder)
        config = root / "config.yml"
        auth = ""
        if private:
            htpasswd = subprocess.run(
                ["htpasswd", "-Bbn", USERNAME, PASSWORD], capture_output=True, check=True
            ).stdout
            (root / "htpasswd").write_bytes(htpasswd)
            auth = _AUTH.format(path=root / "htpasswd")
        config.write_text(_CONFIG.format(root=root / "data", auth=auth))
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        hosts: queue.Queue[str] = queue.Queue()
        registry = Registry("", root, process.pid, (USERNAME, PASSWORD) if private else None)
        reader = threading.Thread(target=_read, args=(process, registry, hosts), daemon=True)
        reader.start()
        try:
            registry.host = hosts.get(timeout=STARTS_WITHIN_S)
            yield registry
        finally:
            process.terminate()
            try:
                process.wait(LINES_SETTLE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            reader.join()


def _read(process: "subprocess.Popen[str]", registry: Registry, hosts: "queue.Queue[str]") -> None:
    """Drain its output for as long as it runs, keeping the address and the access log."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if (listening := _LISTENING.search(line)) is not None:
                hosts.put(listening[1])
            if (request := _REQUEST.search(line)) is not None:
                registry.requests.append((request[1], request[2], int(request[3])))
