"""What one member does with what it hears: read as transcripts."""

from random import Random

import pytest

from mill.cluster.effects import Attached, Effect, Reborn, Send, SendStream
from mill.cluster.messages import Ack, Ask, Body, Claim, Gossip, Packet, Ping, Sync
from mill.cluster.swim import Swim
from mill.cluster.tuning import Tuning
from mill.cluster.values import Address, Member, MemberState, NodeId, Peer

ME = Peer(NodeId("00" * 16), 5, "me", "10.0.0.1", 4401)
OTHER = Peer(NodeId("11" * 16), 3, "other", "10.0.0.2", 4401)
THIRD = NodeId("22" * 16)


def alone(**options: object) -> Swim:
    return Swim(ME, Random(1), Tuning(), now=0.0, **options)  # type: ignore[arg-type]


def body(peer: Peer, said: int = 0) -> Body:
    return Body(peer.name, peer.host, peer.port, said)


def hello(peer: Peer = OTHER) -> Packet:
    claim = Claim(peer.id, peer.epoch, 0, MemberState.ALIVE, body(peer))
    return Packet(peer.id, peer.epoch, 0, Gossip(), (claim,))


def from_other(*claims: Claim) -> Packet:
    return Packet(OTHER.id, OTHER.epoch, 0, Gossip(), claims)


def two() -> Swim:
    swim = alone()
    swim.receive(hello(), OTHER.address, 0.0)
    return swim


def me_in(swim: Swim) -> Member:
    return swim.members[swim.me.id]


def told(effects: list[Effect], node: NodeId) -> list[Claim]:
    return [
        claim
        for effect in effects
        if isinstance(effect, Send)
        for claim in effect.message.claims
        if claim.node == node
    ]


def run_until(swim: Swim, now: float) -> list[Effect]:
    effects = []
    while swim.next_deadline <= now:
        effects += swim.tick(swim.next_deadline)
    return effects


# -- about me -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [MemberState.SUSPECT, MemberState.DOWN, MemberState.LEFT])
def test_i_object_to_what_is_said_of_me_with_a_higher_incarnation(state: MemberState) -> None:
    swim = two()
    swim.receive(from_other(Claim(ME.id, 5, 0, state)), OTHER.address, 1.0)
    assert (me_in(swim).state, me_in(swim).incarnation) == (MemberState.ALIVE, 1)
    assert told(run_until(swim, 2.0), ME.id)[0].rank == (5, 1, MemberState.ALIVE)


def test_a_word_about_my_earlier_life_makes_me_say_again_that_i_live() -> None:
    swim = two()
    run_until(swim, 3.5)
    effects = swim.receive(from_other(Claim(ME.id, 4, 9, MemberState.DOWN)), OTHER.address, 3.5)
    assert me_in(swim).incarnation == 0
    assert told(effects + run_until(swim, 4.5), ME.id)[0].body == body(ME)


@pytest.mark.parametrize("life", [(5, 1), (8, 0)])
def test_a_life_of_mine_that_my_disk_does_not_know_makes_me_begin_a_later_one(life: tuple[int, int]) -> None:
    """The disk was set back: this epoch was used before."""
    swim = two()
    effects = swim.receive(from_other(Claim(ME.id, *life, MemberState.DOWN)), OTHER.address, 1.0)
    assert effects[0] == Reborn(life[0] + 1)
    assert swim.me.epoch == life[0] + 1
    assert me_in(swim).state is MemberState.ALIVE
    assert told(run_until(swim, 2.0), ME.id)[0].epoch == life[0] + 1


def test_new_words_raise_my_incarnation_and_keep_what_was_not_said_anew() -> None:
    swim = alone(meta={"version": "1"}, joined_term=3)
    swim.say(1.0, meta={"version": "2"})
    assert (me_in(swim).incarnation, me_in(swim).meta, me_in(swim).joined_term) == (1, {"version": "2"}, 3)
    swim.say(2.0, joined_term=4)
    assert (me_in(swim).incarnation, me_in(swim).meta, me_in(swim).joined_term) == (2, {"version": "2"}, 4)


def test_what_is_too_long_is_refused_and_not_half_said() -> None:
    swim = alone(meta={"version": "1"})
    with pytest.raises(ValueError, match="bytes about myself, 1024 are allowed"):
        swim.say(1.0, meta={"version": "x" * 1024})
    assert (me_in(swim).incarnation, me_in(swim).meta) == (0, {"version": "1"})
    with pytest.raises(ValueError, match="news of 2000000 bytes"):
        swim.broadcast("key", bytes(2_000_000), 1.0)
    swim = alone(attach=lambda _: bytes(401))
    swim.receive(hello(), OTHER.address, 0.0)
    with pytest.raises(ValueError, match="401 bytes to attach"):
        swim.ping(OTHER.id, 1.0)


def test_an_epoch_never_goes_back() -> None:
    with pytest.raises(ValueError, match="epoch 5 is no later than 5"):
        alone().renew(5, 1.0)


# -- about others ---------------------------------------------------------------------------------------------------


def test_a_restarted_node_is_alive_though_the_death_of_its_earlier_life_is_still_told() -> None:
    swim = two()
    swim.receive(
        from_other(Claim(THIRD, 1, 0, MemberState.ALIVE, Body("third", "10.0.0.3", 1))), OTHER.address, 1.0
    )
    swim.receive(from_other(Claim(THIRD, 1, 7, MemberState.DOWN)), OTHER.address, 1.0)
    assert swim.members[THIRD].state is MemberState.DOWN
    swim.receive(
        from_other(Claim(THIRD, 2, 0, MemberState.ALIVE, Body("third", "10.0.0.4", 1))), OTHER.address, 1.0
    )
    swim.receive(from_other(Claim(THIRD, 1, 9, MemberState.DOWN)), OTHER.address, 1.0)
    assert (swim.members[THIRD].state, swim.members[THIRD].peer.host) == (MemberState.ALIVE, "10.0.0.4")


def test_a_death_in_a_full_copy_only_casts_suspicion() -> None:
    swim = two()
    copy = Packet(THIRD, 1, 0, Sync(reply=False), (Claim(OTHER.id, 3, 0, MemberState.DOWN, body(OTHER)),))
    swim.receive(copy, Address("10.0.0.3", 4401), 1.0)
    assert swim.members[OTHER.id].state is MemberState.SUSPECT


def test_whoever_i_hold_for_dead_hears_it_in_my_answer_and_lives_by_what_it_says_then() -> None:
    swim = two()
    swim.receive(from_other(Claim(OTHER.id, 3, 0, MemberState.DOWN)), Address("10.0.0.3", 4401), 1.0)
    ping = Packet(OTHER.id, 3, 0, Ping(7, ME.id, b"load"))
    effects = swim.receive(ping, OTHER.address, 2.0)
    sent = next(effect for effect in effects if isinstance(effect, Send))
    assert isinstance(sent.message.kind, Ack)
    assert sent.message.claims[0].rank == (3, 0, MemberState.DOWN)
    assert swim.members[OTHER.id].state is MemberState.DOWN
    swim.receive(Packet(OTHER.id, 3, 1, Gossip()), OTHER.address, 3.0)
    assert swim.members[OTHER.id].state is MemberState.ALIVE


def test_a_ping_for_whoever_had_this_address_before_is_not_answered() -> None:
    assert two().receive(Packet(OTHER.id, 3, 0, Ping(7, THIRD)), OTHER.address, 1.0) == []


def test_an_echo_of_mine_changes_nothing() -> None:
    swim = two()
    claim = Claim(ME.id, 5, 9, MemberState.LEFT)
    assert swim.receive(Packet(ME.id, 5, 0, Gossip(), (claim,)), ME.address, 1.0) == []


# -- pings for others' sake -----------------------------------------------------------------------------------------


def test_what_is_attached_comes_with_pings_and_with_answers_and_their_time() -> None:
    swim = alone(attach=lambda _: b"mine")
    swim.receive(hello(), OTHER.address, 0.0)
    asked = next(effect for effect in swim.ping(OTHER.id, 1.0) if isinstance(effect, Send))
    assert isinstance(asked.message.kind, Ping)
    assert (asked.to, asked.message.kind.attachment) == (OTHER.address, b"mine")
    answer = Packet(OTHER.id, 3, 0, Ack(asked.message.kind.number, 0, b"theirs"))
    assert Attached(OTHER.id, b"theirs", 0.25) in swim.receive(answer, OTHER.address, 1.25)
    assert not any(isinstance(effect, Attached) for effect in swim.receive(answer, OTHER.address, 1.3))
    heard = swim.receive(Packet(OTHER.id, 3, 0, Ping(1, ME.id, b"load")), OTHER.address, 2.0)
    assert Attached(OTHER.id, b"load", None) in heard


def test_an_answer_of_somebody_else_is_none() -> None:
    swim = two()
    asked = next(effect for effect in swim.ping(OTHER.id, 1.0) if isinstance(effect, Send))
    assert isinstance(asked.message.kind, Ping)
    answer = Packet(THIRD, 3, 0, Ack(asked.message.kind.number, 0, b"theirs"))
    assert swim.receive(answer, OTHER.address, 1.25) == []


def test_a_full_copy_goes_by_stream() -> None:
    effects = alone().join([OTHER.address, ME.address], 0.0)
    streams = [effect for effect in effects if isinstance(effect, SendStream)]
    assert [(effect.to, effect.message.kind) for effect in streams] == [(OTHER.address, Sync(reply=True))]


def test_questions_of_others_and_known_rumours_are_bounded() -> None:
    swim = two()
    swim.receive(
        from_other(Claim(THIRD, 1, 0, MemberState.ALIVE, Body("third", "10.0.0.3", 1))), OTHER.address, 0.0
    )
    asked = [
        effect
        for number in range(1000)
        for effect in swim.receive(Packet(OTHER.id, 3, 0, Ask(number, THIRD)), OTHER.address, 0.0)
        if isinstance(effect, Send)
    ]
    assert len(asked) == Tuning().most_relayed
    run_until(swim, 1.0)
    assert any(
        isinstance(effect, Send)
        for effect in swim.receive(Packet(OTHER.id, 3, 0, Ask(1, THIRD)), OTHER.address, 1.0)
    )
