"""One node asks another, over real sockets and real handshakes; and those who are not let in."""

import ssl
import time
from collections.abc import AsyncIterator
from functools import partial

import attrs
import httpx
import pytest
import trio
from quart import request

from mill.api import server
from mill.api.peer import caller, make_peer_app
from mill.cluster.messages import Gossip, Mail, Packet
from mill.cluster.values import Address, NodeId
from mill.cluster.wire import MOST_BYTES, encode
from mill.daemon import peers
from mill.daemon.peers import Answer, Peers, Stranger, Unreachable
from mill.errors import Unavailable
from mill.security.channel import Channels, PeerTls
from mill.security.keys import Keyring, Secret

ME, OTHER, THIRD = (NodeId(letters * 16) for letters in ("aa", "bb", "cc"))
RING, FOREIGN = Keyring(Secret(b"1" * 32)), Keyring(Secret(b"2" * 32))


def channels(node: NodeId, ring: Keyring = RING) -> Channels:
    return Channels(ring, node, (), time.time)


@attrs.define(eq=False)
class Other:
    """The node that is asked, and what it was told."""

    port: int = 0
    packets: list[tuple[Packet, Address]] = attrs.field(factory=list)
    turned_away: list[tuple[str, str]] = attrs.field(factory=list)
    full: bool = False
    closed: int = 0
    load: server.Load = attrs.field(factory=server.Load)
    cut: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    end_those: server.EndThose = lambda _: None
    refused: trio.Event = attrs.field(factory=trio.Event)
    followed: trio.Event = attrs.field(factory=trio.Event)
    left: trio.Event = attrs.field(factory=trio.Event)

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    def deliver(self, packet: Packet, source: Address) -> None:
        if self.full:
            raise Unavailable("full")
        self.packets.append((packet, source))

    def refuse(self, host: str, why: str) -> None:
        self.turned_away.append((host, why))
        self.refused.set()

    async def whys(self) -> list[str]:
        """Why somebody was turned away, once that has been told."""
        with trio.fail_after(5):
            await self.refused.wait()
        assert {host for host, _ in self.turned_away} == {"127.0.0.1"}
        return [why for _, why in self.turned_away]

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        app = make_peer_app(self.deliver, refused=self.refuse)

        @app.post("/peer/echo")
        async def echo() -> tuple[bytes, int, dict[str, str]]:
            body = bytes(await request.get_data(as_text=False))  # type: ignore[arg-type]  # no text
            return (
                f"{caller()} {request.args['n']} ".encode() + body,
                201,
                {"x-said": request.headers["x-ask"]},
            )

        @app.get("/peer/follow")
        async def follow() -> AsyncIterator[bytes]:
            async def lines() -> AsyncIterator[bytes]:
                try:
                    yield b"first\n"
                    self.followed.set()
                    await trio.sleep_forever()
                finally:
                    self.left.set()

            return lines()

        @app.route("/peer/closing", methods=["GET", "POST"])
        async def closing() -> str:
            self.closed += 1
            if self.closed == 1:
                self.end_those(0.0)
                await trio.sleep_forever()
            return "still here"

        @app.get("/peer/mute")
        async def mute() -> str:
            await trio.sleep_forever()
            return ""

        sock = server.bind("127.0.0.1:0")
        self.port = sock.getsockname()[1]
        with self.cut:
            async with trio.open_nursery() as nursery:
                tls = PeerTls(channels(OTHER), self.refuse)
                self.end_those = await nursery.start(partial(server.serve, app, sock, self.load, tls))
                task_status.started()


@pytest.fixture
async def other(nursery: trio.Nursery) -> Other:
    made = Other()
    await nursery.start(made.serve)
    return made


@pytest.fixture
async def me(nursery: trio.Nursery, other: Other) -> Peers:
    def address_of(node: NodeId) -> Address | None:
        return None if node == ME else other.address

    found: Peers = await nursery.start(peers.serve, channels(ME), address_of)
    return found


async def said(answer: Answer) -> tuple[int, bytes]:
    return answer.status, await answer.read()


# -- asking ---------------------------------------------------------------------------------------------------------


async def test_a_request_and_its_answer_pass_whole_and_the_caller_is_named(me: Peers) -> None:
    async with me.open(OTHER, "POST", "/peer/echo?n=7", headers={"x-ask": "x"}, content=b"body") as answer:
        assert answer.headers["x-said"] == "x"
        assert await said(answer) == (201, f"{ME} 7 body".encode())


async def test_a_body_may_come_piece_by_piece(me: Peers) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"." * 1000

    async with me.open(OTHER, "POST", "/peer/echo?n=1", headers={"x-ask": ""}, content=pieces()) as answer:
        assert (await answer.read()).count(b".") == 3000


async def test_connections_are_kept(me: Peers, other: Other) -> None:
    for _ in range(5):
        async with me.open(OTHER, "POST", "/peer/echo?n=1", headers={"x-ask": ""}) as answer:
            await answer.read()
    assert other.load.connections == 1


async def test_a_connection_that_is_closed_just_then_costs_a_read_nothing(me: Peers, other: Other) -> None:
    async with me.open(OTHER, "GET", "/peer/closing") as answer:
        assert await said(answer) == (200, b"still here")
    other.closed = 0
    with pytest.raises(Unreachable, match="broke: Server disconnected") as caught:
        async with me.open(OTHER, "POST", "/peer/closing"):
            pass
    assert caught.value.begun, "it may have been done"
    assert other.closed == 1


async def test_a_stream_is_read_as_it_comes_and_may_be_left(me: Peers, other: Other) -> None:
    async with me.open(OTHER, "GET", "/peer/follow") as answer:
        async for chunk in answer.chunks():
            assert chunk == b"first\n"
            break
        assert not other.left.is_set()
    with trio.fail_after(5):
        await other.left.wait()


async def test_a_stream_that_breaks_off_is_an_error_not_an_end(me: Peers, other: Other) -> None:
    async with me.open(OTHER, "GET", "/peer/follow") as answer:
        await other.followed.wait()
        other.cut.cancel()
        with pytest.raises(Unreachable, match="broke"):
            await answer.read()


async def test_who_waits_for_a_node_that_is_dropped_hears_so(me: Peers) -> None:
    async with me.open(OTHER, "GET", "/peer/follow") as answer:
        chunks = answer.chunks()
        assert await anext(chunks) == b"first\n"
        await me.drop(OTHER)
        with pytest.raises(Unreachable), trio.fail_after(5):
            await anext(chunks)


# -- a change of the secret -----------------------------------------------------------------------------------------


async def echo(me: Peers) -> int:
    async with me.open(OTHER, "POST", "/peer/echo?n=1", headers={"x-ask": ""}) as answer:
        await answer.read()
    return answer.status


async def connections(other: Other, number: int) -> None:
    """Once there are so many."""
    with trio.fail_after(5):
        while other.load.connections != number:  # noqa: ASYNC110 -- nobody tells of it
            await trio.sleep(0.01)


async def test_idle_connections_end_at_once_when_they_are_renewed(me: Peers, other: Other) -> None:
    assert await echo(me) == 201
    me.renew()
    await connections(other, 0)
    assert await echo(me) == 201


async def test_what_is_under_way_ends_by_itself_or_in_time_when_they_are_renewed(
    me: Peers, other: Other
) -> None:
    async with me.open(OTHER, "GET", "/peer/follow") as answer:
        chunks = answer.chunks()
        assert await anext(chunks) == b"first\n"
        me.renew()
        assert await echo(me) == 201
        await connections(other, 2)
        me.renew(0.1)
        with pytest.raises(Unreachable), trio.fail_after(5):
            await anext(chunks)
    await connections(other, 0)


async def test_one_that_waits_for_an_answer_gets_it_although_they_are_renewed(me: Peers) -> None:
    body, rest = trio.open_memory_channel[bytes](0)
    answers = []

    async def ask() -> None:
        async with me.open(OTHER, "POST", "/peer/echo?n=1", headers={"x-ask": ""}, content=rest) as answer:
            answers.append(await answer.read())

    with trio.fail_after(5):
        async with trio.open_nursery() as asking:
            asking.start_soon(ask)
            await body.send(b"all of ")
            me.renew(5)
            await body.send(b"it")
            await body.aclose()
    assert answers == [f"{ME} 1 all of it".encode()]


async def test_who_waits_for_a_node_that_is_dropped_hears_so_on_an_old_connection_too(me: Peers) -> None:
    async with me.open(OTHER, "GET", "/peer/follow") as answer:
        chunks = answer.chunks()
        assert await anext(chunks) == b"first\n"
        me.renew()
        await me.drop(OTHER)
        with pytest.raises(Unreachable), trio.fail_after(5):
            await anext(chunks)


async def test_the_side_that_was_asked_ends_what_is_there_and_lets_others_come(
    me: Peers, other: Other
) -> None:
    async with me.open(OTHER, "GET", "/peer/follow") as answer:
        chunks = answer.chunks()
        assert await anext(chunks) == b"first\n"
        other.end_those(0.1)
        with pytest.raises(Unreachable), trio.fail_after(5):
            await anext(chunks)
    await connections(other, 0)
    assert await echo(me) == 201


# -- not answered ---------------------------------------------------------------------------------------------------


async def test_an_unknown_node_and_a_closed_port_are_told_apart_from_a_mute_one(
    me: Peers, other: Other
) -> None:
    for node, path, begun in ((ME, "/", False), (OTHER, "/peer/mute", True)):
        with pytest.raises(Unreachable) as caught:
            async with me.open(node, "GET", path, timeout_s=0.2):
                pass
        assert caught.value.begun is begun
        assert "\n" not in str(caught.value)
    with pytest.raises(Unreachable, match="cannot be reached") as caught:
        async with me.open_at(Address("127.0.0.1", 1), "GET", "/"):
            pass
    assert not caught.value.begun
    assert not other.packets


async def test_another_node_at_that_address_is_not_talked_to(me: Peers, other: Other) -> None:
    with pytest.raises(Stranger, match=f"node {THIRD[:8]} at 127.0.0.1.* is not of this cluster"):
        async with me.open(THIRD, "POST", "/peer/echo?n=1", content=b"secret"):
            pass
    assert other.load.requests == 0
    async with me.open_at(other.address, "POST", "/peer/echo?n=1", headers={"x-ask": ""}) as answer:
        assert answer.status == 201


async def test_another_secret_is_one_line_on_either_side(nursery: trio.Nursery, other: Other) -> None:
    stranger: Peers = await nursery.start(peers.serve, channels(THIRD, FOREIGN), lambda _: other.address)
    with pytest.raises(Stranger, match="another secret"):
        async with stranger.open(OTHER, "POST", "/peer/packet", content=b"x"):
            pass
    assert len(await other.whys()) == 1
    assert not other.packets


@pytest.mark.parametrize(
    ("context", "told"), [("bare", "did not return a certificate"), ("old", "unsupported protocol")]
)
async def test_without_a_certificate_or_with_tls_1_2_there_is_no_word(
    other: Other, context: str, told: str
) -> None:
    own = channels(ME)
    made = ssl.create_default_context(cadata=own.trusted_pem) if context == "bare" else own.peer_client()
    if context == "old":
        made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_2
    async with httpx.AsyncClient(verify=made, trust_env=False) as http:
        with pytest.raises(httpx.TransportError):
            await http.post(f"https://{other.address}/peer/packet", content=b"x")
    [why] = await other.whys()
    assert told in why
    assert not other.packets


async def test_plain_http_is_told_what_is_spoken_and_noted(other: Other) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"http://{other.address}/peer/packet", content=b"x")
    assert (answer.status_code, await other.whys()) == (400, ["it speaks without TLS"])
    assert not other.packets


# -- packets --------------------------------------------------------------------------------------------------------


async def post(me: Peers, packet: bytes) -> tuple[int, bytes]:
    async with me.open(OTHER, "POST", "/peer/packet", content=packet) as answer:
        return await said(answer)


async def test_a_packet_is_delivered_with_where_it_came_from(me: Peers, other: Other) -> None:
    packet = Packet(ME, 1, 0, Mail(b"m" * 2_000_000))
    assert await post(me, encode(packet)) == (204, b"")
    [(got, source)] = other.packets
    assert (got, source.host) == (packet, "127.0.0.1")


async def test_nobody_speaks_for_another(me: Peers, other: Other) -> None:
    status, body = await post(me, encode(Packet(THIRD, 1, 0, Gossip())))
    assert status == 403
    assert b"speaks for another node" in body
    assert await other.whys() == [f"it speaks as node {THIRD[:8]}, and is {ME[:8]}"]
    assert not other.packets


async def test_noise_and_excess_are_refused_and_a_full_node_says_so(me: Peers, other: Other) -> None:
    assert (await post(me, b"\xff\xff noise"))[0] == 400
    assert (await post(me, b"x" * (MOST_BYTES + 1)))[0] == 413
    other.full = True
    assert (await post(me, encode(Packet(ME, 1, 0, Gossip()))))[0] == 503
