"""An answer that is read as it comes: its body, opened late and closed once. What `PullStream` and `Resuming` share."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from mill.client.connection import ByteStream, Connection


class Streaming:
    """An async iterator over one body after another; *forget* is told when it is over."""

    def __init__(self, connection: Connection, forget: Callable[[Any], None]) -> None:
        self._connection = connection
        self._forget = forget
        self._body: ByteStream | None = None
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self._over = True
        self._forget(self)
        await self._drop_body()

    def _state(self) -> str:
        return "over" if self._over else "open" if self._body else "to be opened"

    async def _drop_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            await body.aclose()
