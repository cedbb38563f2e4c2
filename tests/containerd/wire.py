"""What the tests of this directory share: waiting, and the other end of the wire."""

import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import trio

from mill.containerd import rpcs
from mill.containerd.faults import RpcError, RpcNotFound
from mill.containerd.proto import content_pb2
from mill.containerd.rpcs import Rpc
from mill.containerd.session import Session


async def until(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait for what no event tells."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 -- it happens in another thread or process
            await trio.sleep(0.01)


def bridge_threads() -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and thread.name[:4] != "Trio"
    ]


@asynccontextmanager
async def hung_server(path: Path, *, greet: bytes = b"") -> AsyncGenerator[list[bytes]]:
    """Accepts, says *greet*, never answers a call. Yields what each connection that has ended had said."""
    ended: list[bytes] = []

    async def handle(stream: trio.SocketStream) -> None:
        said = b""
        with suppress(trio.BrokenResourceError):
            await stream.send_all(greet)
            async for chunk in stream:
                said += chunk
        ended.append(said)

    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [trio.SocketListener(listener)])
        yield ended
        nursery.cancel_scope.cancel()


@contextmanager
def grpc_server(path: Path, methods: Mapping[Rpc[Any, Any], Any]) -> Iterator[None]:
    """A server of ours, to see what arrives on the wire. Its messages are bytes."""
    handlers = []
    for rpc, method in methods.items():
        service, _, name = rpc.path.removeprefix("/").partition("/")
        handlers.append(grpc.method_handlers_generic_handler(service, {name: method}))
    server = grpc.server(ThreadPoolExecutor(4), handlers=handlers)
    server.add_insecure_port(f"unix://{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


async def forget_ingest(session: Session, ref: str) -> None:
    """Abort a write that was left. containerd lets go of it a little after its stream has ended, and fails until then."""
    with trio.fail_after(5):
        while True:
            try:
                await session.call(rpcs.CONTENT_ABORT, content_pb2.AbortRequest(ref=ref))
            except RpcNotFound:
                return
            except RpcError:
                await trio.sleep(0.01)
