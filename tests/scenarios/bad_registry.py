"""Registries on loopback that do what real ones do on bad days: they stall, garble a layer, serve nonsense, send elsewhere.

`serving` runs a server that answers as a function of the test says; `BadRegistry` is the one with switches for failing and
interrupted pulls, the table of all that can go wrong is `moods`. Real pulls are tested against `tests/registry.py`.
"""

import os
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import attrs

from tests.images import Made, OciImage, busybox_image, large_layer

STALL_AT_MOST_S = 60.0
POLL_S = 0.05
"""How long a server may take to notice that it is to end."""
STALLS_FROM_BYTES = 64 * 1024
"""Layers are larger, manifests and configs smaller."""


@attrs.frozen
class Asked:
    """One request; names of `headers` in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""

    def text(self) -> str:
        """All that the server learnt by it."""
        return "\n".join([self.path, *self.headers.values(), self.body.decode(errors="replace")])


@attrs.frozen
class Answer:
    """`body` in pieces may take its time between them; `length` is what Content-Length says where that is not the truth."""

    status: int = 200
    body: bytes | Iterable[bytes] = b""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    length: int | None = None


@attrs.define
class Server:
    """`asked` grows with every GET and POST."""

    host: str
    asked: list[Asked] = attrs.field(factory=list)


@contextmanager
def serving(
    answer: Callable[[Asked], Answer], *, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """A server on a free port of *address*; a thread for each connection."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing: pytest's output is for pytest."""

        def do_HEAD(self) -> None:
            self._send(answer(self._asked()), body_too=False)

        def do_GET(self) -> None:
            asked.append(self._asked())
            self._send(answer(asked[-1]), body_too=True)

        do_POST = do_GET  # noqa: N815 -- the name that http.server looks for

        def _asked(self) -> Asked:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            return Asked(self.command, self.path, headers, body)

        def _send(self, told: Answer, *, body_too: bool) -> None:
            pieces = [told.body] if isinstance(told.body, bytes) else told.body
            length = len(told.body) if isinstance(told.body, bytes) else told.length
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length if told.length is None else told.length))
            self.end_headers()
            sent = 0
            for piece in pieces if body_too else ():
                self.wfile.write(piece)
                sent += len(piece)
            self.close_connection = body_too and sent != (length if told.length is None else told.length)

    class Threads(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that hangs up in mid-answer is what these tests are about."""

    with Threads((address, 0), Handler) as server:
        if tls is not None:  # the handshake is the connection's thread's
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True)
        thread.start()
        try:
            yield Server(f"{address}:{server.server_address[1]}", asked)
        finally:
            server.shutdown()
            thread.join()


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

    def answer(self, asked: Asked) -> Answer:
        if asked.method == "GET":
            self.requests.append(asked.path)
        kind, _, last = asked.path.rpartition("/")
        if asked.path == "/v2/":
            return Answer(200, b"{}")
        if kind.endswith("/manifests"):
            headers = {"Content-Type": self.image.manifest_type}
            return Answer(200, self.manifest or self.image.manifest, headers)
        blob = self.image.blobs.get(last)
        if blob is None:
            return Answer(404, b'{"errors": [{"code": "BLOB_UNKNOWN"}]}')
        if self.stall and len(blob) > STALLS_FROM_BYTES:
            return Answer(200, self._halves(blob), length=len(blob))
        return Answer(200, bytes(len(blob)) if self.garble else blob)

    def _halves(self, blob: bytes) -> Iterator[bytes]:
        yield blob[: len(blob) // 2]
        self.stalled.set()
        self.go_on.wait(STALL_AT_MOST_S)
        yield blob[len(blob) // 2 :]


@contextmanager
def bad_registry() -> Iterator[BadRegistry]:
    registry = BadRegistry()
    with serving(registry.answer) as server:
        registry.host = server.host
        try:
            yield registry
        finally:
            registry.go_on.set()
