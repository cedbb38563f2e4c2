"""Our shell of the server on real sockets: deadlines, the cap, idle clients, shutdown."""

import contextlib
import resource
import socket
from typing import Any

import pytest
import trio
from quart_trio import QuartTrio

from mill import config
from mill.api import server
from tests.api.conftest import Served, serve, until
from tests.api.endless import GET, STUCK, Endless, answer_on

SPARE_S = 0.5
"""Over a deadline, for a machine that has other things to do."""


async def test_a_connection_is_kept_for_further_requests(open_: Served) -> None:
    async with await open_.connect() as stream:
        for _ in range(3):
            assert (await answer_on(stream)).endswith(b"hello")


async def test_requests_sent_at_once_are_answered_in_order(open_: Served) -> None:
    async with await open_.connect(GET * 3) as stream:
        got = b""
        with trio.fail_after(5):
            while got.count(b"hello") < 3:
                got += await stream.receive_some()


async def test_a_client_that_stops_reading_is_cut_off_at_the_deadline(
    open_: Served, endless: Endless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "API_WRITE_DEADLINE_S", 0.3)
    stuck = await open_.connect(STUCK)
    await until(lambda: endless.streams == 1)
    began = trio.current_time()
    await until(lambda: endless.streams == 0)
    assert trio.current_time() - began < 0.3 + SPARE_S
    await stuck.aclose()


async def test_a_client_that_reads_slowly_is_not(
    open_: Served, endless: Endless, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is for one write, not for the whole answer."""
    monkeypatch.setattr(server, "API_WRITE_DEADLINE_S", 0.5)
    async with await open_.connect(STUCK) as slow:
        until_s = trio.current_time() + 1.2
        while trio.current_time() < until_s:
            await trio.sleep(0.05)
            for _ in range(20):
                assert await slow.receive_some(65536)
        assert endless.streams == 1


async def test_clients_that_stopped_reading_do_not_hold_up_the_end(open_: Served, endless: Endless) -> None:
    stuck = [await open_.connect(STUCK) for _ in range(3)]
    waiting = await open_.connect(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n")
    half = await open_.connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Le")
    idle = await open_.connect()
    await until(lambda: endless.streams == 4)
    began = trio.current_time()
    open_.scope.cancel()
    with trio.fail_after(server.DRAIN_S + SPARE_S):
        await open_.ended.wait()
    assert trio.current_time() - began > server.DRAIN_S / 2  # what is under way got its chance
    assert endless.streams == 0
    for stream in (*stuck, waiting, half, idle):
        await stream.aclose()


async def test_with_nothing_under_way_it_ends_at_once(open_: Served) -> None:
    async with await open_.connect() as idle, await open_.connect() as used:
        await answer_on(used)
        await trio.testing.wait_all_tasks_blocked(0.05)
        began = trio.current_time()
        open_.scope.cancel()
        await open_.ended.wait()
        assert trio.current_time() - began < server.DRAIN_S * 0.9
        for stream in (idle, used):
            assert await stream.receive_some() == b""


async def test_what_is_under_way_is_answered_when_it_can_be(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody new is let in."""
    monkeypatch.setattr(server, "DRAIN_S", 5.0)
    go, app = trio.Event(), QuartTrio("slow", static_folder=None)

    @app.get("/")
    async def slow() -> str:
        await go.wait()
        return "hello"

    served: Served = await nursery.start(serve, app)
    async with await served.connect(GET) as stream:
        await trio.testing.wait_all_tasks_blocked(0.05)
        served.scope.cancel()
        with trio.fail_after(5):
            while True:
                try:
                    await (await served.connect()).aclose()
                except OSError:
                    break
        go.set()
        got = await answer_on(stream, b"")
        assert got.endswith(b"hello")
        await served.ended.wait()


async def test_connections_over_the_cap_wait_for_a_place(
    endless: Endless, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "API_CONNECTIONS", 2)
    served: Served = await nursery.start(serve, endless.app)
    first, second, third = [await served.connect() for _ in range(3)]
    await answer_on(first)
    await answer_on(second)
    await third.send_all(GET)
    with trio.move_on_after(0.2) as patience:
        await third.receive_some()
    assert patience.cancelled_caught
    await first.aclose()
    assert (await answer_on(third, b"")).endswith(b"hello")
    await second.aclose()
    await third.aclose()
    served.scope.cancel()


async def test_an_answer_that_is_cut_off_while_its_head_is_written_ends_its_connection_and_is_no_error(
    nursery: trio.Nursery, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is when a client leaves just then."""

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 -- as ASGI has it
        with trio.CancelScope() as cut:
            cut.cancel()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
            await send({"type": "http.response.body", "body": b"hello"})

    served: Served = await nursery.start(serve, app)
    async with await served.connect(GET) as stream:
        with trio.fail_after(5):
            assert await stream.receive_some() == b""
    served.scope.cancel()
    await served.ended.wait()
    assert "internal error" not in capsys.readouterr().out


@pytest.mark.parametrize("sent", [
    b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n", STUCK, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n" + bytes(5_000_000),
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n", b"\x16\x03\x01", b"GET / HTT", b"",
], ids=["waits", "streams", "sends too much", "sends too little", "tls", "half", "nothing"])  # fmt: skip
async def test_whoever_leaves_gives_the_place_back(
    endless: Endless, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "API_CONNECTIONS", 1)
    served: Served = await nursery.start(serve, endless.app)
    stream = await served.connect()
    with trio.move_on_after(0.2), contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(sent)
        while await stream.receive_some():
            pass
    await stream.aclose()
    async with await served.connect() as next_one:
        assert (await answer_on(next_one)).endswith(b"hello")
    await until(lambda: endless.streams == 0)
    served.scope.cancel()


async def test_an_idle_connection_is_closed_after_its_time_and_not_before(
    endless: Endless, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours, not hypercorn's 5 s: pools of clients keep a connection for longer."""
    assert config.API_KEEP_ALIVE_S > 60
    monkeypatch.setattr(server, "API_KEEP_ALIVE_S", 0.4)
    served: Served = await nursery.start(serve, endless.app)
    async with await served.connect() as used, await served.connect() as fresh:
        await trio.sleep(0.2)
        await answer_on(used)
        began = trio.current_time()
        assert await fresh.receive_some() == b""
        assert await used.receive_some() == b""
        assert 0.3 < trio.current_time() - began < 0.4 + SPARE_S
    served.scope.cancel()


async def test_one_in_use_is_not_idle(
    endless: Endless, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "API_KEEP_ALIVE_S", 0.1)
    served: Served = await nursery.start(serve, endless.app)
    async with await served.connect(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n") as stream:
        with trio.move_on_after(0.5) as patience:
            await stream.receive_some()
        assert patience.cancelled_caught
        assert endless.streams == 1
    await until(lambda: endless.streams == 0)
    served.scope.cancel()


async def test_headers_that_never_end_are_given_up(
    endless: Endless, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "API_KEEP_ALIVE_S", 0.3)
    served: Served = await nursery.start(serve, endless.app)
    async with await served.connect(b"GET / HTTP/1.1\r\n") as stream:
        with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"a: b\r\n")
                await trio.sleep(0.05)
    served.scope.cancel()


async def test_without_descriptors_it_waits_and_goes_on(
    open_: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def sleep(seconds: float) -> None:
        nonlocal tries
        tries += 1
        await original(seconds)

    original = trio.sleep
    monkeypatch.setattr(server.trio, "sleep", sleep)  # type: ignore[attr-defined]  # its module's import
    client = socket.socket()
    client.setblocking(False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(socket.socket())
        with contextlib.suppress(BlockingIOError):
            client.connect(("127.0.0.1", open_.port))
        with trio.fail_after(5):
            while tries < 2:
                await trio.lowlevel.checkpoint()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in held:
            one.close()
    async with trio.SocketStream(trio.socket.from_stdlib_socket(client)) as stream:
        assert (await answer_on(stream)).endswith(b"hello")
