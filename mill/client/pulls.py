"""A pull on the node as an async iterator: its progress, and last the image. Called by `Client.pull_image`.

It ends with its connection: unlike a log it is not begun anew, for the caller may want to know. What was fetched is kept.
"""

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from mill.client.calls import Call
from mill.client.connection import Connection, ConnectionBroke
from mill.client.problems import from_object
from mill.client.streaming import Streaming
from mill.convert import from_json
from mill.errors import ProblemError
from mill.model import Image, PullProgress

NDJSON = "application/x-ndjson"


class PullStream(Streaming):
    """`PullProgress` whenever it has changed, then the `Image`. Leaving early ends a pull that nobody else waits for;
    do so inside ``async with``, or the connection stays open until the client is closed.
    """

    def __init__(
        self, connection: Connection, call: Call[Image], forget: Callable[["PullStream"], None]
    ) -> None:
        super().__init__(connection, forget)
        self._call = call
        self.said: dict[str, Any] = {}
        """The object, as milld sent it, that was returned or raised last."""
        self._ready: deque[tuple[dict[str, Any], PullProgress | Image | ProblemError]] = deque()
        self._rest = b""

    def __repr__(self) -> str:
        return f"<PullStream of {self._call.body['image']}: {self._state()}>"

    async def __anext__(self) -> PullProgress | Image:
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            try:
                await self._advance()
            except BaseException:
                await self.aclose()
                raise
        self.said, news = self._ready.popleft()
        if isinstance(news, ProblemError):
            raise news
        return news

    async def image(self) -> Image:
        """The image, once it is there; the progress that is left is passed over."""
        async for news in self:
            if isinstance(news, Image):
                return news
        raise ConnectionBroke("this pull is over, and its image was delivered")

    async def _advance(self) -> None:
        if self._body is None:
            self._body = await self._connection.stream(
                self._call.path, self._call.params, NDJSON, thinks_s=None, call=self._call
            )
        data = await self._body.read()
        url = self._connection.endpoint.url
        if not data:
            raise ConnectionBroke(
                f"milld at {url} broke the pull off; ask again, what it has fetched is kept"
            )
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            objects = [json.loads(line) for line in lines if line.strip()]
            self._ready.extend([(said, self._news(said)) for said in objects])
        except (ExceptionGroup, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ProblemError(
                200, "unreadable answer", f"{url} told of the pull what this client cannot read"
            ) from error
        if self._ready and not isinstance(self._ready[-1][1], PullProgress):
            await self.aclose()

    def _news(self, said: dict[str, Any]) -> PullProgress | Image | ProblemError:
        if "error" in said:
            return from_object(said["error"], said["error"]["status"])
        if "image" in said:
            return self._connection.decode(self._call, said["image"])
        return from_json(PullProgress, said["progress"])
