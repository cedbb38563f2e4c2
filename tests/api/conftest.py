"""The app over a fake node, served by our own server on a real socket of loopback, and clients of it."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from mill.api import server
from mill.api.app import make_app
from tests.api.endless import Endless
from tests.api.fakes import TOKEN, FakeNode


@pytest.fixture
def fake(tmp_path: Path) -> FakeNode:
    return FakeNode(tmp_path / "uploads")


@attrs.frozen
class Served:
    """An application on its port; `scope` ends the server, `ended` says that it has."""

    port: int
    scope: trio.CancelScope
    ended: trio.Event

    async def connect(self, sent: bytes = b"") -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        assert isinstance(stream, trio.SocketStream)
        await stream.send_all(sent)
        return stream


async def serve(app: Any, load: server.Load | None = None, *, task_status: trio.TaskStatus[Served]) -> None:
    sock = server.bind("127.0.0.1:0")
    served = Served(sock.getsockname()[1], trio.CancelScope(), trio.Event())
    with served.scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(server.serve, app, sock, load or server.Load()))
            task_status.started(served)
    served.ended.set()


@pytest.fixture
async def served(fake: FakeNode, nursery: trio.Nursery) -> Served:
    made: Served = await nursery.start(serve, make_app(fake.core))
    return made


@pytest.fixture
async def anyone(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token. Certificates, which take a while to read, are not needed."""
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{served.port}", timeout=10, verify=False, trust_env=False
    ) as client:
        yield client


@pytest.fixture
async def api(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the token."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"http://127.0.0.1:{served.port}"
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=10, verify=False, trust_env=False
    ) as client:
        yield client


@pytest.fixture
def endless() -> Endless:
    return Endless()


@pytest.fixture
async def open_(endless: Endless, nursery: trio.Nursery) -> AsyncIterator[Served]:
    served: Served = await nursery.start(serve, endless.app)
    yield served
    served.scope.cancel()
    with trio.fail_after(server.DRAIN_S + 5):
        await served.ended.wait()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what nothing announces, for 5 s at most."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 -- files and kernels tell trio nothing
            await trio.sleep(0.005)


def problem(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Status, slug and field of an answer that must be a whole problem of RFC 9457."""
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert said["status"] == answer.status_code
    assert said["detail"]
    assert said["title"]
    assert "\n" not in said["detail"]
    assert set(said) <= {"type", "title", "status", "detail", "field"}
    assert said["type"].startswith("urn:mill:problem:")
    return answer.status_code, said["type"].rpartition(":")[2], said.get("field")
