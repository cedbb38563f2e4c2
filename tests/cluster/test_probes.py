"""One probe from its first ping to the suspicion, what ends it early, and whom a node asks when."""

from random import Random

import pytest

from mill.cluster.effects import Attached, Effect, Send, SendStream
from mill.cluster.messages import Ack, Ask, Body, Claim, Gossip, Packet, Ping, Told
from mill.cluster.swim import Swim
from mill.cluster.tuning import Tuning
from mill.cluster.values import Address, MemberState, NodeId, Peer
from tests.cluster.fleet import Fleet

ME = Peer(NodeId("00" * 16), 1, "me", "10.0.0.1", 4401)
TARGET, *HELPERS = (NodeId(f"{number:032x}") for number in range(1, 5))


def where(node: NodeId) -> Address:
    return Address(f"10.0.1.{int(node, 16)}", 4401)


def member(*, nodes: tuple[NodeId, ...] = (TARGET, *HELPERS)) -> Swim:
    """That has been told of *nodes*; its own turns do not come, and what it had to tell is told."""
    swim = Swim(ME, Random(1), Tuning(probe_every_s=1e6, stream_probe_every_s=1e6), now=0.0)
    for node in nodes:
        body = Body(node[-2:], *where(node))
        claim = Claim(node, 1, 0, MemberState.ALIVE, body)
        swim.receive(Packet(node, 1, 0, Gossip(), (claim,)), where(node), 0.0)
    effects = run(swim, 30.0)
    assert effects
    return swim


def run(swim: Swim, until: float) -> list[tuple[float, Effect]]:
    effects = []
    while swim.next_deadline <= until:
        now = swim.next_deadline
        effects += [(now, effect) for effect in swim.tick(now)]
    return effects


def suspicion() -> Packet:
    """Makes the one who hears it look for itself (of five, three do; the seed is one with which it does)."""
    accuser = NodeId("ff" * 16)
    return Packet(
        HELPERS[0], 1, 0, Gossip(), (Claim(TARGET, 1, 0, MemberState.SUSPECT, accusers=(accuser,)),)
    )


def look(swim: Swim) -> list[tuple[float, Effect]]:
    return [(30.0, effect) for effect in swim.receive(suspicion(), where(HELPERS[0]), 30.0)]


def line(at: float, effect: Effect) -> str | None:
    if not isinstance(effect, Send | SendStream) or isinstance(effect.message.kind, Gossip):
        return None
    kind = effect.message.kind
    stream = " by stream" if isinstance(effect, SendStream) else ""
    whom = next(node for node in (TARGET, *HELPERS) if where(node) == effect.to)
    return f"{at - 30:.2f} {type(kind).__name__} {'target' if whom == TARGET else 'helper'}{stream}"


def lines(effects: list[tuple[float, Effect]]) -> list[str]:
    return [said for at, effect in effects if (said := line(at, effect))]


def numbers(effects: list[tuple[float, Effect]], kind: type[Ping] | type[Ask]) -> list[int]:
    return [
        effect.message.kind.number
        for _, effect in effects
        if isinstance(effect, Send | SendStream) and isinstance(effect.message.kind, kind)
    ]


def test_a_probe_pings_four_times_and_asks_for_help_halfway() -> None:
    swim = member()
    effects = look(swim) + run(swim, 31.1)
    assert lines(effects) == [
        "0.00 Ping target",
        "0.25 Ping target",
        "0.50 Ask helper",
        "0.50 Ask helper",
        "0.50 Ask helper",
        "0.50 Ping target by stream",
        "0.50 Ping target",
        "0.75 Ping target",
    ]
    claims = [
        claim
        for at, effect in run(swim, 32)
        if isinstance(effect, Send)
        for claim in effect.message.claims
        if claim.node == TARGET
    ]
    assert ME.id in claims[0].accusers


def test_each_ping_of_a_suspect_tells_it_of_the_suspicion() -> None:
    swim = member()
    pings = [
        effect
        for _, effect in look(swim)
        if isinstance(effect, Send) and isinstance(effect.message.kind, Ping)
    ]
    assert pings[0].message.claims[0].rank == (1, 0, MemberState.SUSPECT)


@pytest.mark.parametrize("by", ["datagram", "stream", "helper"])
def test_an_answer_by_any_way_ends_it(by: str) -> None:
    swim = member()
    effects = look(swim) + run(swim, 30.5)
    direct, *_, streamed, _ = numbers(effects, Ping)
    if by == "helper":
        asked = next(
            effect
            for _, effect in effects
            if isinstance(effect, Send) and isinstance(effect.message.kind, Ask)
        )
        helper = next(node for node in HELPERS if where(node) == asked.to)
        told = Told(numbers(effects, Ask)[0], TARGET, answered=True)
        swim.receive(Packet(helper, 1, 0, told), where(helper), 30.6)
    else:
        answer = Packet(TARGET, 1, 0, Ack(direct if by == "datagram" else streamed, 0))
        heard = swim.receive(answer, where(TARGET), 30.6)
        assert any(isinstance(effect, Attached) for effect in heard)
    assert lines(run(swim, 31.5)) == []
    assert swim.awareness == 0


def test_who_finds_many_mute_doubts_itself_and_takes_longer() -> None:
    swim = member()
    look(swim)
    run(swim, 31.0)
    assert swim.awareness == 3


def test_helpers_that_answer_that_they_got_none_either_clear_me_of_the_doubt() -> None:
    swim = member()
    effects = look(swim) + run(swim, 30.5)
    for _, effect in effects:
        if isinstance(effect, Send) and isinstance(effect.message.kind, Ask):
            helper = next(node for node in HELPERS if where(node) == effect.to)
            told = Told(effect.message.kind.number, TARGET, answered=False)
            swim.receive(Packet(helper, 1, 0, told), where(helper), 30.95)
    run(swim, 31.0)
    assert swim.awareness == 0


def test_one_who_is_asked_pings_twice_and_tells_in_time_what_became_of_it() -> None:
    swim = member()
    asker = HELPERS[0]
    asked = Packet(asker, 1, 0, Ask(77, TARGET))
    effects = [(30.0, effect) for effect in swim.receive(asked, where(asker), 30.0)] + run(swim, 30.45)
    assert lines(effects) == ["0.00 Ping target", "0.20 Ping target", "0.40 Told helper"]
    last = effects[-1][1]
    assert isinstance(last, Send)
    assert last.message.kind == Told(77, TARGET, answered=False)

    effects = [(31.0, effect) for effect in swim.receive(asked, where(asker), 31.0)]
    answer = Packet(TARGET, 1, 0, Ack(numbers(effects, Ping)[0], 0))
    told = [
        effect.message.kind
        for effect in swim.receive(answer, where(TARGET), 31.1)
        if isinstance(effect, Send)
    ]
    assert told == [Told(77, TARGET, answered=True)]
    assert lines(run(swim, 32.0)) == []


def test_each_member_is_probed_once_a_round_in_an_order_of_lots(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(10, 1)
    fleet.settle()
    fleet.simulator.run(20)
    pinged: list[tuple[float, Address]] = []
    prober = fleet.nodes[0].swim
    assert prober is not None
    original = prober.tick

    def tick(now: float) -> list[Effect]:
        effects = original(now)
        pinged.extend(
            (now, effect.to)
            for effect in effects
            if isinstance(effect, Send) and isinstance(effect.message.kind, Ping)
        )
        return effects

    monkeypatch.setattr(prober, "tick", tick)
    fleet.simulator.run(90)
    assert 178 <= len(pinged) <= 182
    order = [to for _, to in pinged]
    assert all(len(set(order[at : at + 18])) == 9 for at in range(len(order) - 17)), (
        "one waited for over two rounds"
    )
    assert len({tuple(order[at : at + 9]) for at in range(0, 171, 9)}) > 10
