"""Components that run for the length of a block, each in a nursery of its own. `node` builds the tree of them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

Layer = Callable[..., Awaitable[Any]]
"""Starts a component that runs until the node ends; gives its handle."""


@asynccontextmanager
async def running(serve: Callable[..., Awaitable[None]], *args: Any, **options: Any) -> AsyncIterator[Any]:
    """The handle of a component that runs for the length of the block; it is gone when the block is left."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(serve, *args, **options))
        nursery.cancel_scope.cancel()
