"""Published ports by real sockets of loopback: a task there is a listener, and whoever connects is led to it, within limits."""

import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import attrs
import pytest
import trio

from mill.errors import Conflict
from mill.model import Publish
from mill.network.publish import Ports
from mill.network.relay import CHUNK_BYTES, Limits

LOOPBACK = IPv4Address("127.0.0.1")
WITHIN_S = 20.0
"""For what takes milliseconds on an idle machine."""
SHORT_S = 0.2
FLOOD = 3000
GROWN_BYTES = 4 * 1024**2
ENDED = (trio.BrokenResourceError, OSError)

Serve = Callable[[trio.SocketStream], Awaitable[None]]


async def echo(stream: trio.SocketStream) -> None:
    """Says what it hears, and ends when it has heard all."""
    async for data in stream:
        await stream.send_all(data)


@attrs.frozen
class Site:
    """A task with published ports, and the ports of the host that lead to it."""

    ports: Ports
    hosts: list[int]
    inner: int
    """The task's own port."""

    async def connect(self, at: int = 0) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.hosts[at])

    async def is_led(self, stream: trio.SocketStream) -> bool:
        """Whether what is sent comes back, from a task that says what it hears."""
        try:
            await stream.send_all(b"x")
            return bool(await stream.receive_some(1) == b"x")
        except ENDED:
            return False


@asynccontextmanager
async def site(serve: Serve = echo, *, ports: int = 1, **limits: float) -> AsyncIterator[Site]:
    """A task that is *serve*; all is gone afterwards."""
    before = descriptors()
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            inner = listeners[0].socket.getsockname()[1]
            made = Ports(nursery, Limits(**limits))  # type: ignore[arg-type]  # whole numbers where those are due
            named = made.reserve("task", [Publish(inner)] * ports)
            made.serve("task", LOOPBACK)
            yield Site(made, [int(port.host or 0) for port in named], inner)
            made.close()
            nursery.cancel_scope.cancel()
        await until(lambda: descriptors() <= before)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 -- what the kernel and other tasks do is announced by nobody
        await trio.sleep(0.01)


async def test_what_is_sent_comes_back_and_the_end_of_one_way_is_not_that_of_the_other() -> None:
    async with site() as led, await led.connect() as stream:
        await stream.send_all(b"all of it")
        await stream.send_eof()
        got = b"".join([bytes(data) async for data in stream])
        assert got == b"all of it"
        await until(lambda: led.ports.room.taken == 0)


def test_a_port_that_is_taken_is_a_conflict() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(Conflict, match=rf"publish\[0\].host: port {taken} of this node is in use"):
            Ports(None).reserve("task", [Publish(80, taken)])  # type: ignore[arg-type]  # it is not come to a nursery


# -- as many as there is room for -----------------------------------------------------------------------------------


async def test_a_port_refuses_at_once_what_is_beyond_its_limit_until_one_has_left() -> None:
    async with site(port=3) as led, AsyncExitStack() as streams:
        there = [await streams.enter_async_context(await led.connect()) for _ in range(3)]
        assert all([await led.is_led(stream) for stream in there])
        async with await led.connect() as refused:
            assert not await led.is_led(refused)
        await there.pop().aclose()
        await until(lambda: led.ports.room.taken == 2)
        async with await led.connect() as another:
            assert await led.is_led(another)
        assert all([await led.is_led(stream) for stream in there])


async def test_a_refusal_is_a_reset_and_no_end_that_could_be_taken_for_an_answer() -> None:
    async with site(port=0) as led, await led.connect() as refused:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await refused.receive_some(1)
        assert getattr(caught.value.__cause__, "errno", None) == errno.ECONNRESET


async def test_all_ports_of_a_node_share_its_limit() -> None:
    async with site(ports=2, port=3, node=4) as led, AsyncExitStack() as streams:
        there = [await streams.enter_async_context(await led.connect(at % 2)) for at in range(4)]
        assert all([await led.is_led(stream) for stream in there])
        for at in range(2):
            async with await led.connect(at) as refused:
                assert not await led.is_led(refused)
        assert led.ports.refused == {"node": 2}


async def test_a_flood_beyond_the_limit_costs_neither_memory_nor_descriptors() -> None:
    async with site(port=1) as led, await led.connect() as first:
        assert await led.is_led(first)

        async def knock(times: int) -> None:
            for _ in range(times):
                async with await led.connect() as refused:
                    assert not await led.is_led(refused)

        await knock(200)
        files, memory = descriptors(), rss_bytes()
        async with trio.open_nursery() as many:
            for _ in range(10):
                many.start_soon(knock, FLOOD // 10)
        assert descriptors() <= files
        assert rss_bytes() - memory < GROWN_BYTES
        assert await led.is_led(first)


def test_where_few_files_may_be_opened_there_are_fewer_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, most in ((1024, 128), (1 << 20, 1024), (-1, 1024)):
        monkeypatch.setattr("resource.getrlimit", lambda _, files=files: (files, files))
        assert Limits.of_this_process().node == most


# -- silence --------------------------------------------------------------------------------------------------------


async def test_a_half_closed_connection_in_which_nothing_passes_is_ended() -> None:
    """A client that has left looks like one that only has nothing more to say: a task that waits would hold it for ever."""

    async def deaf(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with site(deaf, half_closed_s=SHORT_S) as led, await led.connect() as stream:
        await stream.send_eof()
        assert not await stream.receive_some(1)
        await until(lambda: led.ports.room.taken == 0)


async def test_a_half_closed_connection_goes_on_while_something_passes() -> None:
    parts = 8

    async def slow(stream: trio.SocketStream) -> None:
        assert [data async for data in stream] == []
        for _ in range(parts):
            await trio.sleep(SHORT_S / 2)
            await stream.send_all(b"x")

    async with site(slow, half_closed_s=SHORT_S * 2) as led, await led.connect() as stream:
        await stream.send_eof()
        assert b"".join([bytes(data) async for data in stream]) == b"x" * parts


async def test_silence_alone_ends_nothing() -> None:
    async with site(half_closed_s=SHORT_S) as led, await led.connect() as stream:
        assert await led.is_led(stream)
        await trio.sleep(SHORT_S * 3)
        assert await led.is_led(stream)


async def test_who_never_reads_makes_the_task_wait_and_nobody_else() -> None:
    sent = 0

    async def endless(stream: trio.SocketStream) -> None:
        nonlocal sent
        with suppress(*ENDED):
            while True:
                await stream.send_all(b"x" * CHUNK_BYTES)
                sent += CHUNK_BYTES

    async with site(endless, ports=2) as led, await led.connect(), await led.connect(1) as other:
        assert await other.receive_some(1) == b"x"
        while True:
            before, memory = sent, rss_bytes()
            await trio.sleep(SHORT_S)
            if sent == before:
                break
        assert rss_bytes() - memory < GROWN_BYTES
        got = 0
        while got < 64 * CHUNK_BYTES:
            got += len(await other.receive_some(CHUNK_BYTES))
        led.ports.release("task")
        await until(lambda: led.ports.room.taken == 0)


async def test_the_kernel_looks_after_both_sides() -> None:
    async with site() as led, await led.connect() as stream:
        assert await led.is_led(stream)
        ours = [port for port in keepalives() if port == led.hosts[0]]
        assert len(ours) == 1
        assert led.inner in keepalives(remote=True)


def keepalives(*, remote: bool = False) -> list[int]:
    """Ports of the connections that the kernel has a timer of keepalives for (proc_net_tcp: ``tr`` is 2)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(row[1 + remote].rpartition(":")[2], 16) for row in rows if row[5].startswith("02:")]
