"""What is passed on: the least told first, so many times each, never more than fits, never without bound."""

from hypothesis import given
from hypothesis import strategies as st

from mill.cluster import wire
from mill.cluster.broadcasts import Broadcasts, weigh
from mill.cluster.messages import Body, Claim, Gossip, Packet, Rumour
from mill.cluster.tuning import Tuning
from mill.cluster.values import MemberState, NodeId

NODE = NodeId("ab" * 16)
LARGE = wire.MOST_NUMBER


def rumour(number: int, key: str = "", size: int = 50) -> Rumour:
    return Rumour(NODE, 1, number, key or f"key-{number}", bytes(size))


def claim(number: int) -> Claim:
    return Claim(NodeId(f"{number:032x}"), 1, 0, MemberState.SUSPECT)


def test_each_is_told_so_many_times_and_then_no_more() -> None:
    queue = Broadcasts(Tuning())
    queue.put_rumour(rumour(1))
    told = [queue.pick(1000, 16)[1] for _ in range(20)]
    assert [len(picked) for picked in told] == [1] * 16 + [0] * 4
    assert not queue


def test_what_was_told_least_goes_first_and_claims_before_rumours() -> None:
    queue = Broadcasts(Tuning())
    for number in range(4):
        queue.put_rumour(rumour(number))
    queue.pick(2 * weigh(rumour(0)), 16)
    assert [each.number for each in queue.pick(2 * weigh(rumour(0)), 16)[1]] == [2, 3]
    queue.put_claim(claim(1))
    claims, rumours = queue.pick(2 * weigh(claim(1)), 16)
    assert claims == (claim(1),)
    assert sum(map(weigh, rumours)) <= weigh(claim(1))


def test_claims_without_end_leave_rumours_half_of_a_datagram() -> None:
    queue = Broadcasts(Tuning())
    for number in range(100):
        queue.put_claim(claim(number))
    room = 20 * weigh(claim(1))
    assert len(queue.pick(room, 16)[0]) == 20
    queue.put_rumour(rumour(1))
    claims, rumours = queue.pick(room, 16)
    assert (len(claims), [each.number for each in rumours]) == (10, [1])


def test_of_one_key_only_the_newest_is_told_and_nothing_older_is_taken_up() -> None:
    queue = Broadcasts(Tuning())
    assert queue.put_rumour(rumour(1, "load"))
    assert queue.put_rumour(rumour(3, "load"))
    assert not queue.put_rumour(rumour(2, "load"))
    assert not queue.put_rumour(rumour(3, "load"))
    assert [each.number for each in queue.pick(1000, 16)[1]] == [3]
    assert queue.put_rumour(Rumour(NODE, 2, 1, "load", b"after a restart"))


def test_what_no_datagram_can_hold_waits_for_a_stream() -> None:
    queue = Broadcasts(Tuning())
    queue.put_rumour(rumour(1, size=30_000))
    queue.put_rumour(rumour(2, size=200_000))
    assert not queue.short
    assert queue.pick(1000, 16) == ((), ())
    assert [each.number for each in queue.pick_long()[1]] == [1]
    assert [each.number for each in queue.pick_long()[1]] == [2]


def test_too_many_rumours_push_out_what_was_told_most() -> None:
    queue = Broadcasts(Tuning(most_rumours=10))
    for number in range(10):
        queue.put_rumour(rumour(number))
    queue.pick(weigh(rumour(0)), 16)
    for number in range(10, 15):
        queue.put_rumour(rumour(number))
    left = {each.number for _ in range(16) for each in queue.pick(100_000, 16)[1]}
    assert len(left) == 10
    assert 0 not in left
    assert {11, 12, 13, 14} < left


texts = st.text(max_size=40)
numbers = st.integers(0, LARGE)
bodies = st.builds(
    Body,
    texts,
    st.text(min_size=1, max_size=60),
    st.integers(1, 65535),
    numbers,
    numbers,
    st.dictionaries(texts, texts, max_size=4),
)
states = st.sampled_from(MemberState)
claims = st.builds(
    Claim, st.just(NODE), numbers, numbers, states, st.none() | bodies, st.lists(st.just(NODE), max_size=3).map(tuple),
    st.floats(0, wire.MOST_AWAY_MS / 1000),
)  # fmt: skip


@given(claims | st.builds(Rumour, st.just(NODE), numbers, numbers, texts, st.binary(max_size=300)))
def test_nothing_weighs_less_than_it_does_on_the_wire(item: Claim | Rumour) -> None:
    bare = len(wire.encode(Packet(NODE, 1, 1, Gossip())))
    full = (
        Packet(NODE, 1, 1, Gossip(), (item,))
        if isinstance(item, Claim)
        else Packet(NODE, 1, 1, Gossip(), (), (item,))
    )
    assert len(wire.encode(full)) - bare <= weigh(item)
