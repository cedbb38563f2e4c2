"""Names of others, asked of real resolvers in every mood, through the real service; files as the host has them."""

import socket
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest
import trio

from mill.dns.forward import Upstreams
from mill.dns.limits import FLIGHTS, PATIENCE_S, TRY_S
from mill.dns.listener import bind
from mill.dns.upstream import Address
from mill.errors import SetupError
from tests.dns.book import query, texts
from tests.dns.resolver import cut, failing, honest, resolver, silent
from tests.dns.serving import WITHIN_S, ask, by_udp, serving

WWW = ["www.example.com. 60 A 203.0.113.7"]


def code(said: dns.message.Message) -> str:
    return dns.rcode.to_text(said.rcode())


def unreachable() -> Address:
    """A port of this host that nobody listens on."""
    with bind("127.0.0.1:0") as listener:
        return listener.address


@pytest.mark.parametrize("tcp", [False, True])
async def test_an_answer_comes_from_upstream_once_and_from_the_cache_then(*, tcp: bool) -> None:
    with resolver() as above:
        async with serving(above.address) as dns_:
            for _ in range(3):
                said = await ask(dns_.addresses[0], "www.example.com", tcp=tcp)
                assert [text.split()[-1] for text in texts(said.answer)] == ["203.0.113.7"]
            assert len(above.asked) == 1
            assert dns_.counts == {("upstream", "noerror"): 1, ("cache", "noerror"): 2}


async def test_absences_are_passed_on_and_kept() -> None:
    with resolver() as above:
        async with serving(above.address) as dns_:
            for name, told in (("none.example.com", "NXDOMAIN"), ("www.example.com", "NOERROR")):
                for _ in range(2):
                    said = await ask(dns_.addresses[0], name, "AAAA")
                    assert (code(said), said.answer, len(said.authority)) == (told, [], 1)
            assert len(above.asked) == 2


async def test_every_question_has_its_own_id_port_and_case() -> None:
    with resolver() as above:
        async with serving(above.address) as dns_:
            for number in range(20):
                await ask(dns_.addresses[0], f"a-name-with-many-letters-{number}.example.com")
    assert len({made.id for made in above.queries}) > 15
    assert len({port for _, port in above.peers}) > 15
    assert len({name[:20] for _, name, _ in above.asked}) > 15
    assert all(made.payload == 1232 for made in above.queries)


async def test_mill_is_never_asked_of_anybody() -> None:
    with resolver() as above:
        async with serving(above.address) as dns_:
            for name in (
                "mill",
                "gone-0000.mill",
                "a.b.gone-0000.mill",
                "web-a1b2.MILL",
                "_task._tcp.x.mill",
                "maybe-i9j0.mill",
            ):
                await ask(dns_.addresses[0], name, "TXT")
        assert above.asked == []


async def test_an_answer_that_is_cut_off_is_fetched_whole_by_tcp() -> None:
    with resolver() as above:
        async with serving(above.address) as dns_:
            whole = await ask(dns_.addresses[0], "big.example.com", "TXT", tcp=True)
            assert len(texts(whole.answer)) == 20
            assert [transport for transport, _, _ in above.asked] == ["udp", "tcp"]
            short = await ask(dns_.addresses[0], "big.example.com", "TXT", use_edns=0, payload=4096)
            assert short.flags & dns.flags.TC


async def test_an_upstream_that_cuts_off_and_has_no_tcp_is_passed_over() -> None:
    with resolver(lambda query, _: [cut(query).to_wire()]) as cutting, resolver() as whole:
        async with serving(cutting.address, whole.address) as dns_:
            assert texts((await ask(dns_.addresses[0], "www.example.com")).answer) == WWW
        assert {transport for transport, _, _ in cutting.asked} == {"udp", "tcp"}


async def test_forged_answers_before_the_true_one_change_nothing() -> None:
    def forging(query: dns.message.Message, transport: str) -> list[bytes]:
        (true,) = honest(query, transport)
        evil = true.replace(bytes((203, 0, 113, 7)), bytes((6, 6, 6, 6)))
        return [b"", b"\xff" * 40, bytes(2) + evil[2:], evil.lower(), evil[:-3], query.to_wire(), true]

    with resolver(forging) as above:
        async with serving(above.address) as dns_:
            assert texts((await ask(dns_.addresses[0], "www.example.com")).answer) == WWW


async def test_a_resolver_that_does_not_repeat_the_case_is_asked_in_lower_case() -> None:
    def lowering(query: dns.message.Message, transport: str) -> list[bytes]:
        return [wire.lower() for wire in honest(query, transport)]

    with resolver(lowering) as above:
        async with serving(above.address) as dns_:
            said = await ask(dns_.addresses[0], "long-enough-to-have-capitals.example.com")
            assert code(said) == "NXDOMAIN"
    assert above.asked[-1][1].islower()


@pytest.mark.parametrize(("mood", "why"), [(silent, "timeout"), (failing, "refused")])
async def test_the_next_upstream_is_asked_and_is_the_first_from_then_on(mood: object, why: str) -> None:
    assert callable(mood)
    with resolver(mood) as bad, resolver() as good:
        async with serving(unreachable(), bad.address, good.address) as dns_:
            assert texts((await ask(dns_.addresses[0], "www.example.com")).answer) == WWW
            assert len(bad.asked) == 1
            await ask(dns_.addresses[0], "alias.example.com")
            assert len(bad.asked) == 1
            assert dns_.failures == {"unreachable": 1, why: 1}


async def test_a_failure_of_all_is_passed_on() -> None:
    with resolver(failing) as above:
        async with serving(above.address, unreachable()) as dns_:
            assert code(await ask(dns_.addresses[0], "www.example.com")) == "SERVFAIL"
            assert dns_.counts == {("upstream", "servfail"): 1}
            assert dns_.failures == {"refused": 1, "unreachable": 1}


async def test_silence_is_a_failure_before_a_client_loses_its_patience(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The clock jumps when all wait: real sockets that stay silent take no real time."""
    with resolver(silent) as above:
        async with serving(above.address) as dns_:
            began = autojump_clock.current_time()
            with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
                await sock.connect(dns_.addresses[0])
                await sock.send(query("www.example.com"))
                wire = await sock.recv(512)
            assert wire[3] & 15 == 2
            assert TRY_S <= autojump_clock.current_time() - began <= PATIENCE_S + 0.1 < 5.0
            assert dns_.failures == {"timeout": 2}


async def test_the_end_of_all_patience_is_a_failure_of_who_was_asked_last(
    autojump_clock: trio.testing.MockClock,
) -> None:
    del autojump_clock
    with resolver(silent) as first, resolver(silent) as second, resolver(silent) as third:
        async with serving(first.address, second.address, third.address) as dns_:
            assert code(await ask(dns_.addresses[0], "www.example.com")) == "SERVFAIL"
            assert dns_.failures == {"timeout": 3}


async def test_what_upstreams_are_asked_is_timed_and_what_is_known_is_not() -> None:
    took: list[float] = []
    with resolver() as above:
        async with serving(above.address, on_asked=took.append) as dns_:
            for name in ("www.example.com", "www.example.com", "alias.example.com", "web-a1b2.mill"):
                await ask(dns_.addresses[0], name)
    assert len(took) == 2
    assert all(0 < seconds < WITHIN_S for seconds in took)


async def test_without_an_upstream_the_failure_comes_at_once() -> None:
    async with serving() as dns_:
        with trio.fail_after(WITHIN_S):
            assert code(await ask(dns_.addresses[0], "www.example.com")) == "SERVFAIL"
        assert dns_.failures == {"no_resolver": 1}


async def test_the_same_question_of_many_is_asked_once() -> None:
    wires = [query("www.example.com") for _ in range(100)]
    gate = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def slow(query: dns.message.Message, transport: str) -> list[bytes]:
        trio.from_thread.run(gate.wait, trio_token=token)
        return honest(query, transport)

    with resolver(slow) as above:
        async with serving(above.address) as dns_, trio.open_nursery() as nursery:
            nursery.start_soon(by_udp, dns_.addresses[0], *wires)
            while dns_._responder._waiting < len(wires):
                await trio.testing.wait_all_tasks_blocked()
            gate.set()
        assert len(above.asked) == 1


async def test_a_flood_of_unknown_names_is_refused_past_its_bound_and_mill_is_answered_meanwhile() -> None:
    with resolver(silent) as above:
        async with serving(above.address) as dns_:
            forwarder = dns_._responder._forwarder
            with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
                await sock.connect(dns_.addresses[0])
                refused = 0
                for number in range(4 * FLIGHTS):
                    await sock.send(query(f"flood{number}.example.com"))
                    with trio.move_on_after(0.001):
                        refused += (await sock.recv(512))[3] & 15 == 2
                    assert len(forwarder._flights) <= FLIGHTS
            assert refused > FLIGHTS
            assert dns_.failures["busy"] >= refused
            assert texts((await ask(dns_.addresses[0], "web-a1b2.mill")).answer) == [
                "web-a1b2.mill. 1 A 10.99.0.2"
            ]


async def test_cancelling_in_the_middle_of_questions_leaves_no_socket() -> None:
    """`serving` looks."""
    with resolver(silent) as above:
        async with serving(above.address) as dns_:
            with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
                await sock.connect(dns_.addresses[0])
                await sock.send(query("a.example.com"))
                await sock.send(query("b.example.com"))
                with trio.fail_after(WITHIN_S):
                    while len(above.asked) < 2:
                        await trio.testing.wait_all_tasks_blocked(0.01)


# -- which upstreams ------------------------------------------------------------------------------------------------


def write(path: Path, *resolvers: str) -> None:
    """As programs that manage it do: a new file in place of the old."""
    new = path.with_suffix(".new")
    new.write_text("".join(f"nameserver {address}\n" for address in resolvers))
    new.replace(path)


async def test_resolv_conf_is_read_again_when_it_changes(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    path = tmp_path / "resolv.conf"
    upstreams = Upstreams((), path, list)
    assert upstreams.usable() == []
    write(path, "192.0.2.1")
    assert upstreams.usable() == []
    await trio.sleep(1)
    assert upstreams.usable() == [("192.0.2.1", 53)]
    write(path, "192.0.2.2", "2001:db8::1")
    await trio.sleep(1)
    assert upstreams.usable() == [("192.0.2.2", 53), ("2001:db8::1", 53)]
    path.unlink()
    await trio.sleep(1)
    assert upstreams.usable() == [("192.0.2.2", 53), ("2001:db8::1", 53)]


async def test_configured_upstreams_stand_above_resolv_conf(tmp_path: Path) -> None:
    write(tmp_path / "resolv.conf", "192.0.2.1")
    assert Upstreams([("192.0.2.9", 5353)], tmp_path / "resolv.conf", list).usable() == [("192.0.2.9", 5353)]


async def test_what_leads_back_to_us_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "resolv.conf", "127.0.0.1", "127.0.0.53", "192.0.2.1")
    ours: list[Address] = [("127.0.0.1", 4453)]
    upstreams = Upstreams((), tmp_path / "resolv.conf", lambda: ours)
    assert len(upstreams.usable()) == 3
    ours = [*ours, ("127.0.0.1", 53)]
    assert upstreams.usable() == [("127.0.0.53", 53), ("192.0.2.1", 53)]
    ours = [("0.0.0.0", 53)]
    assert upstreams.usable() == [("192.0.2.1", 53)]


async def test_an_upstream_that_is_ourselves_is_refused_at_the_start() -> None:
    address = unreachable()
    with pytest.RaisesGroup(pytest.RaisesExc(SetupError, match="is Mill's own DNS")):
        async with serving(address, listen=f"127.0.0.1:{address[1]}"):
            raise AssertionError


async def test_answers_of_former_upstreams_are_forgotten() -> None:
    with resolver() as first, resolver() as second:
        async with serving(first.address) as dns_:
            await ask(dns_.addresses[0], "www.example.com")
            dns_._responder._forwarder._upstreams._fixed = [second.address]
            await ask(dns_.addresses[0], "www.example.com")
        assert (len(first.asked), len(second.asked)) == (1, 1)


async def test_a_loop_through_another_resolver_costs_one_question_and_ends() -> None:
    """What comes back while it is on its way waits for itself, and for no longer than anybody else."""
    with resolver() as between:
        async with serving(between.address) as dns_:
            back = dns_.addresses[0]

            def returning(query: dns.message.Message, _: str) -> list[bytes]:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.sendto(query.to_wire(), back)
                return []

            between.mood = returning
            assert code(await ask(back, "www.example.com")) == "SERVFAIL"
            assert len(between.asked) <= 3
