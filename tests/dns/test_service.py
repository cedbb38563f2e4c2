"""The service on real sockets: both transports, pipelines, idlers, floods, a second address, ports in use, the end."""

import socket
import struct

import attrs
import dns.message
import dns.rcode
import pytest
import trio
import trio.testing

from mill.dns.limits import BATCH, CONNECTIONS, IDLE_S, PIPELINE, WAITING
from mill.dns.listener import bind
from mill.dns.message import frame
from mill.dns.names import Known, Name, Unsure
from mill.errors import SetupError
from tests.dns.book import ZONE, Book, query, texts
from tests.dns.resolver import resolver, silent
from tests.dns.serving import WITHIN_S, ask, by_tcp, by_udp, read_frames, serving, sockets

WEB = ["web-a1b2.mill. 1 A 10.99.0.2"]


@pytest.mark.parametrize("tcp", [False, True])
async def test_tasks_are_answered_by_both_transports_and_counted(*, tcp: bool) -> None:
    async with serving() as dns_:
        assert texts((await ask(dns_.addresses[0], "web-a1b2.mill", tcp=tcp)).answer) == WEB
        await ask(dns_.addresses[0], "gone-0000.mill", tcp=tcp)
        await ask(dns_.addresses[0], "maybe-i9j0.mill", tcp=tcp)
        assert dns_.counts == {("mill", "noerror"): 1, ("mill", "nxdomain"): 1, ("mill", "servfail"): 1}


@pytest.mark.parametrize("tcp", [False, True])
async def test_what_is_not_known_here_is_asked_of_others_and_nobody_else_waits(*, tcp: bool) -> None:
    told = {"maybe-0001": Name(("10.99.7.7",), 80), "maybe-0002": None, "maybe-0003": Known.UNSURE}
    zone = attrs.evolve(ZONE, names=Book({"web-a1b2": Name(("10.99.0.2",), 8080)}, set(told)))
    may_answer = trio.Event()

    async def others(task_id: str) -> Name | Unsure | None:
        await may_answer.wait()
        return told[task_id]

    async with serving(zone=zone, others=others) as dns_, trio.open_nursery() as nursery:
        codes: dict[str, tuple[str, list[str]]] = {}

        async def put(task_id: str) -> None:
            said = await ask(dns_.addresses[0], f"{task_id}.mill", tcp=tcp)
            codes[task_id] = dns.rcode.to_text(said.rcode()), texts(said.answer)

        for task_id in told:
            nursery.start_soon(put, task_id)
        assert texts((await ask(dns_.addresses[0], "web-a1b2.mill", tcp=tcp)).answer) == WEB
        assert not codes
        may_answer.set()
        with trio.fail_after(WITHIN_S):
            await trio.testing.wait_all_tasks_blocked(0.2)
        assert codes == {
            "maybe-0001": ("NOERROR", ["maybe-0001.mill. 1 A 10.99.7.7"]),
            "maybe-0002": ("NXDOMAIN", []),
            "maybe-0003": ("SERVFAIL", []),
        }
        assert dns_.counts == {("mill", "noerror"): 2, ("mill", "nxdomain"): 1, ("mill", "servfail"): 1}


async def test_a_flood_of_what_others_would_have_to_tell_takes_a_fixed_number_of_places() -> None:
    zone = attrs.evolve(ZONE, names=Book({}, {"maybe-0001"}))

    async def others(_: str) -> None:
        await trio.sleep_forever()

    wires = [query("maybe-0001.mill") for _ in range(WAITING + 3 * BATCH)]
    async with serving(zone=zone, others=others) as dns_:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, trio.fail_after(WITHIN_S):
            await sock.connect(dns_.addresses[0])
            for wire in wires:
                await sock.send(wire)
            assert {(await sock.recv(512))[3] & 15 for _ in range(2 * BATCH)} == {2}
        assert dns_.counts["mill", "servfail"] <= 3 * BATCH


async def test_a_refusal_that_only_edns_can_tell_is_counted_as_one() -> None:
    async with serving() as dns_:
        await ask(dns_.addresses[0], "web-a1b2.mill", use_edns=1)
        await ask(dns_.addresses[0], "web-a1b2.mill", use_edns=0)
        assert dns_.counts == {("mill", "badvers"): 1, ("mill", "noerror"): 1}


async def test_an_answer_of_many_kilobytes_comes_by_tcp() -> None:
    async with serving() as dns_:
        assert len(texts((await ask(dns_.addresses[0], "many-0000.mill", tcp=True)).answer)) == 100


async def test_more_datagrams_at_once_than_a_batch_are_all_answered() -> None:
    async with serving() as dns_:
        answers = await by_udp(dns_.addresses[0], *(query("web-a1b2.mill") for _ in range(200)))
        assert len({wire[:2] for wire in answers}) > 195  # random ids


async def test_bad_datagrams_get_what_they_deserve_and_the_next_is_answered() -> None:
    refused = [
        struct.pack("!6H", 7, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
        struct.pack("!6H", 7, 0, 9, 9, 9, 9) + bytes(4000),
    ]
    ignored = [b"", b"x", bytes(11), struct.pack("!6H", 7, 0x8000, 1, 0, 0, 0), b"\xff" * 9000]
    async with serving() as dns_:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.connect(dns_.addresses[0])
            for wire in [*ignored, *refused]:
                await sock.send(wire)
            with trio.fail_after(WITHIN_S):
                assert [(await sock.recv(512))[3] & 15 for _ in refused] == [1, 1]
        assert texts((await ask(dns_.addresses[0], "web-a1b2.mill")).answer) == WEB
        assert dns_.counts["mill", "dropped"] == len(ignored)


async def test_a_bug_costs_one_answer_and_not_milld(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def lookup(self, task_id: str) -> None:
            raise ZeroDivisionError(task_id)

        def reverse(self, address: str) -> None:
            raise AssertionError(address)

    async with serving(zone=attrs.evolve(ZONE, names=Broken())) as dns_:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.connect(dns_.addresses[0])
            await sock.send(query("web-a1b2.mill"))
            await sock.send(query("ns.mill"))
            with trio.fail_after(WITHIN_S):
                assert (await sock.recv(512))[3] & 15 == 0
    assert "internal error over a DNS query" in capsys.readouterr().out


async def test_a_pipeline_of_queries_is_answered_however_it_is_cut() -> None:
    wires = [query(name) for name in ("web-a1b2.mill", "gone-0000.mill", "many-0000.mill") * 20]
    async with serving() as dns_:
        answers = await by_tcp(dns_.addresses[0], *wires)
        assert [wire[:2] for wire in answers] == [wire[:2] for wire in wires]
        async with await trio.open_tcp_stream(*dns_.addresses[0]) as stream:
            for at in range(0, len(stream_of := b"".join(map(frame, wires[:3]))), 5):
                await stream.send_all(stream_of[at : at + 5])
            with trio.fail_after(WITHIN_S):
                assert len(await read_frames(stream, 3)) == 3


async def test_a_client_that_has_sent_all_gets_its_last_answers() -> None:
    with resolver() as above:
        async with serving(above.address) as dns_, await trio.open_tcp_stream(*dns_.addresses[0]) as stream:
            await stream.send_all(frame(query("www.example.com")) + frame(query("web-a1b2.mill")))
            await stream.send_eof()
            with trio.fail_after(WITHIN_S):
                assert len(await read_frames(stream, 2)) == 2
                assert await stream.receive_some() == b""


async def test_what_is_no_query_ends_its_connection() -> None:
    async with serving() as dns_, await trio.open_tcp_stream(*dns_.addresses[0]) as stream:
        await stream.send_all(frame(b"x"))
        with trio.fail_after(WITHIN_S):
            assert await stream.receive_some() == b""


@pytest.mark.parametrize("dribble", [False, True])
async def test_an_idle_connection_is_closed_even_if_it_dribbles(
    autojump_clock: trio.testing.MockClock, *, dribble: bool
) -> None:
    async with serving() as dns_, await trio.open_tcp_stream(*dns_.addresses[0]) as stream:
        began = autojump_clock.current_time()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for _ in range(100 if dribble else 0):
                    await stream.send_all(b"\x01")
                    await trio.sleep(1)

            nursery.start_soon(send)
            try:
                assert await stream.receive_some() == b""
            except trio.BrokenResourceError:
                assert dribble  # what was not read makes it a reset
            nursery.cancel_scope.cancel()
        assert IDLE_S - 0.1 <= autojump_clock.current_time() - began <= IDLE_S + 1.1


async def test_a_client_that_takes_no_answers_is_cut_off_and_others_are_served() -> None:
    async with serving() as dns_:
        with trio.fail_after(WITHIN_S):
            async with await trio.open_tcp_stream(*dns_.addresses[0]) as deaf:
                with trio.move_on_after(1):
                    while True:
                        await deaf.send_all(frame(query("many-0000.mill")) * 100)
                assert texts((await ask(dns_.addresses[0], "web-a1b2.mill", tcp=True)).answer) == WEB


async def test_a_pipeline_that_waits_for_upstream_is_bounded() -> None:
    with resolver(silent) as above:
        async with serving(above.address) as dns_, await trio.open_tcp_stream(*dns_.addresses[0]) as stream:
            wires = [query(f"a{number}.example.com") for number in range(PIPELINE * 3)]
            await stream.send_all(b"".join(map(frame, wires)))
            with trio.fail_after(WITHIN_S):
                while dns_._responder._waiting < PIPELINE:
                    await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert dns_._responder._waiting == PIPELINE


async def test_connections_past_the_cap_wait_for_room_and_datagrams_do_not() -> None:
    async with serving() as dns_:
        streams = [await trio.open_tcp_stream(*dns_.addresses[0]) for _ in range(CONNECTIONS)]
        with trio.fail_after(WITHIN_S):
            for stream in streams:
                await stream.send_all(frame(query("web-a1b2.mill")))
                await read_frames(stream, 1)
            assert texts((await ask(dns_.addresses[0], "web-a1b2.mill")).answer) == WEB
            async with await trio.open_tcp_stream(*dns_.addresses[0]) as late:
                await late.send_all(frame(query("web-a1b2.mill")))
                with trio.move_on_after(0.2) as waited:
                    await read_frames(late, 1)
                assert waited.cancelled_caught
                await streams.pop().aclose()
                assert len(await read_frames(late, 1)) == 1
        for stream in streams:
            await stream.aclose()


async def test_another_address_can_be_added_while_it_runs() -> None:
    async with serving() as dns_:
        added = await dns_.listen("127.0.0.2:0")
        assert added in dns_.addresses
        for tcp in (False, True):
            assert texts((await ask(added, "web-a1b2.mill", tcp=tcp)).answer) == WEB
        with pytest.raises(SetupError, match=r"127\.0\.0\.2:\d+ \(DNS\) is in use"):
            await dns_.listen(f"127.0.0.2:{added[1]}")
        with pytest.raises(SetupError, match=r"cannot listen on 192\.0\.2\.1:53 for DNS"):
            await dns_.listen("192.0.2.1:53")
        assert len(dns_.addresses) == 2


@pytest.mark.parametrize(
    ("listen", "asked"), [("0.0.0.0:0", "127.0.0.3"), ("[::]:0", "127.0.0.3"), ("127.0.0.1:0", "127.0.0.1")]
)
async def test_an_answer_leaves_by_the_address_that_was_asked(listen: str, asked: str) -> None:
    async with serving(listen=listen) as dns_:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.sendto(query("web-a1b2.mill"), (asked, dns_.addresses[0][1]))
            with trio.fail_after(WITHIN_S):
                assert (await sock.recvfrom(512))[1][0] == asked


@pytest.mark.parametrize("listen", ["[::1]:0", "[::]:0"])
async def test_it_listens_on_ipv6_too(listen: str) -> None:
    async with serving(listen=listen) as dns_:
        with trio.socket.socket(trio.socket.AF_INET6, trio.socket.SOCK_DGRAM) as sock:
            await sock.sendto(query("web-a1b2.mill"), ("::1", dns_.addresses[0][1]))
            with trio.fail_after(WITHIN_S):
                wire, peer = await sock.recvfrom(512)
        assert (texts(dns.message.from_wire(wire).answer), peer[0]) == (WEB, "::1")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_one_line_and_leaves_no_socket(kind: int) -> None:
    before = sockets()
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(SetupError) as error:
            bind(f"127.0.0.1:{port}")
        told = (
            f"127.0.0.1:{port} (DNS) is in use: stop what listens there, or choose another with --dns-listen"
        )
        assert str(error.value) == told
    assert sockets() <= before


async def test_cancelling_with_clients_connected_leaves_no_socket_of_ours() -> None:
    before = sockets()
    async with serving() as dns_:
        stream = await trio.open_tcp_stream(*dns_.addresses[0])
        await stream.send_all(frame(query("web-a1b2.mill"))[:5])
        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
    assert sockets() <= before
