"""An application whose answers never end or never begin, to try the server with."""

import contextlib
from collections.abc import AsyncGenerator

import trio
from quart import Response
from quart_trio import QuartTrio

from mill.api.request import PacedConnection, PacedRequest

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
STUCK = b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n"


class Endless:
    """An application with an answer that never ends, one that never begins, and how many of them are under way."""

    def __init__(self) -> None:
        self.streams = 0
        self.app = app = QuartTrio("endless", static_folder=None)
        app.asgi_http_class = PacedConnection
        app.request_class = PacedRequest
        app.config["MAX_CONTENT_LENGTH"] = None
        app.config["RESPONSE_TIMEOUT"] = app.config["BODY_TIMEOUT"] = None

        @app.route("/", methods=["GET", "POST"])
        async def root() -> str:
            return "hello"

        @app.get("/endless")
        async def endless() -> Response:
            answer = Response(self._zeros(), content_type="text/plain")
            answer.timeout = None
            return answer

        @app.get("/never")
        async def never() -> str:
            async with contextlib.aclosing(self._zeros()) as zeros:
                await anext(zeros)
                await trio.sleep_forever()
            return ""

    async def _zeros(self) -> AsyncGenerator[bytes, None]:
        self.streams += 1
        try:
            while True:
                yield bytes(65536)
        finally:
            self.streams -= 1


async def answer_on(stream: trio.SocketStream, sent: bytes = GET, within_s: float = 5.0) -> bytes:
    """What comes up to the end of `hello`, or of the connection."""
    await stream.send_all(sent)
    got = b""
    with trio.fail_after(within_s):
        while not got.endswith(b"hello") and (data := await stream.receive_some()):
            got += data
    return got
