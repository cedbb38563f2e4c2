"""A registry on loopback that does what real ones do on bad days: stalls, garbles a layer, serves nonsense.

For the scenarios of failing and interrupted pulls; real pulls are tested against the real one in `tests/registry.py`.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import attrs

from tests.images import Made, OciImage, busybox_image, large_layer

STALL_AT_MOST_S = 60.0
STALLS_FROM_BYTES = 64 * 1024
"""Layers are larger, manifests and configs smaller."""


def large_busybox() -> OciImage:
    """Of several mebibytes, so that half of it is more than what a puller sends on in one piece; no two have the same layer."""
    return OciImage([*busybox_image().layers, large_layer(8 * 2**20, os.urandom(8))], busybox_image().config)


@attrs.define
class BadRegistry:
    """Serves one image under any name. `stalled` is set once somebody waits for a stalled layer, `go_on` lets it go on."""

    host: str = ""
    image: Made = attrs.field(factory=lambda: large_busybox().made())
    manifest: bytes = b""
    garble: bool = False
    stall: bool = False
    stalled: threading.Event = attrs.field(factory=threading.Event)
    go_on: threading.Event = attrs.field(factory=threading.Event)
    requests: list[str] = attrs.field(factory=list)

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, media type and body."""
        kind, _, last = path.rpartition("/")
        if path == "/v2/":
            return 200, "application/json", b"{}"
        if kind.endswith("/manifests"):
            return 200, self.image.manifest_type, self.manifest or self.image.manifest
        blob = self.image.blobs.get(last)
        if blob is None:
            return 404, "application/json", b'{"errors": [{"code": "BLOB_UNKNOWN"}]}'
        return 200, "application/octet-stream", bytes(len(blob)) if self.garble else blob


@contextmanager
def bad_registry() -> Iterator[BadRegistry]:
    registry = BadRegistry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing: pytest's output is for pytest."""

        def do_HEAD(self) -> None:
            self._answer(body_too=False)

        def do_GET(self) -> None:
            registry.requests.append(self.path)
            self._answer(body_too=True)

        def _answer(self, *, body_too: bool) -> None:
            status, media_type, body = registry.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if body_too and registry.stall and len(body) > STALLS_FROM_BYTES:
                self.wfile.write(body[: len(body) // 2])
                body = body[len(body) // 2 :]
                registry.stalled.set()
                registry.go_on.wait(STALL_AT_MOST_S)
            if body_too:
                self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that hangs up in mid-answer is what these tests are about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        registry.host = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield registry
        finally:
            registry.go_on.set()
            server.shutdown()
            thread.join()
