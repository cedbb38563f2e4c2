"""A slow link on loopback: passes TCP on to another port, so many bytes a second in all. For pulls that take a while.

Called by the scenarios of what is shown meanwhile.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer

PIECE_BYTES = 16 * 1024


class _Link(ThreadingTCPServer):
    """`free_at` is when the link has passed on all that it took."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, there: tuple[str, int], bytes_a_second: float) -> None:
        super().__init__(("127.0.0.1", 0), _Passage)
        self.there = there
        self.bytes_a_second = bytes_a_second
        self.free_at = 0.0
        self.one_at_a_time = threading.Lock()

    def take(self, size_bytes: int) -> None:
        """Returns once the link had the time for so many bytes."""
        with self.one_at_a_time:
            self.free_at = max(self.free_at, time.monotonic()) + size_bytes / self.bytes_a_second
            wait_s = self.free_at - time.monotonic()
        time.sleep(max(0.0, wait_s))


class _Passage(BaseRequestHandler):
    server: _Link

    def handle(self) -> None:
        with socket.create_connection(self.server.there) as there:
            up = threading.Thread(target=self._pass, args=(self.request, there), daemon=True)
            up.start()
            self._pass(there, self.request, slow=True)
            with suppress(OSError):
                self.request.shutdown(socket.SHUT_RDWR)
            up.join()

    def _pass(self, source: socket.socket, sink: socket.socket, *, slow: bool = False) -> None:
        with suppress(OSError):  # either end may hang up whenever it likes
            while data := source.recv(PIECE_BYTES):
                if slow:
                    self.server.take(len(data))
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def throttled(host: str, bytes_a_second: float) -> Iterator[str]:
    """Another ``host:port`` at which what is at *host* can be reached slowly."""
    name, _, port = host.rpartition(":")
    with _Link((name, int(port)), bytes_a_second) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
