"""What other nodes ask of one that is just starting: gossip is taken at once, all else waits for it, and is never denied."""

from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from mill.api.peer import make_peer_app
from mill.daemon.cluster import OPEN_S, Door


class Inside:
    """An application that has begun to answer for a path."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Any, _receive: Any, _send: Any) -> None:
        self.paths.append(scope["path"])


async def ask(door: Door, path: str) -> None:
    await door({"type": "http", "path": path}, None, None)


async def test_gossip_comes_in_at_once_and_all_else_when_the_door_is_open(
    autojump_clock: MockClock,
) -> None:
    packets, rest = Inside(), Inside()
    door = Door(packets)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, door, "/v1/tasks")
        await ask(door, "/peer/packet")
        await trio.sleep(OPEN_S / 2)
        assert (packets.paths, rest.paths) == (["/peer/packet"], [])
        door.open(rest)
    assert rest.paths == ["/v1/tasks"]
    assert autojump_clock.current_time() == pytest.approx(OPEN_S / 2)
    await ask(door, "/peer/packet")
    assert packets.paths == ["/peer/packet"] * 2


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_node_that_takes_too_long_says_that_it_is_starting(
    method: str, autojump_clock: MockClock
) -> None:
    door: Any = Door(make_peer_app(lambda *_: None))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://node") as http:
        answer = await http.request(method, "/v1/tasks/web-0001")
    assert autojump_clock.current_time() == pytest.approx(OPEN_S)
    assert (answer.status_code, answer.json()["detail"]) == (503, "this node is just starting; try again")
