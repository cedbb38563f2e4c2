"""What a table makes of claims does not depend on their order, on repeats, or on who else merged them before."""

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from mill.cluster.messages import Body, Claim
from mill.cluster.table import Pool, Table
from mill.cluster.values import MemberState, NodeId

NODES = [NodeId(f"{number:032x}") for number in range(2)]


def body(epoch: int, said: int) -> Body:
    """As the subject said it: one text for each (epoch, incarnation)."""
    return Body(f"name-{epoch}-{said}", "10.0.0.1", 4401, said, meta={"said": str(said)})


claims = st.builds(
    lambda node, epoch, incarnation, state, said: Claim(
        node, epoch, incarnation, state, body(epoch, min(said, incarnation))
    ),
    st.sampled_from(NODES),
    st.integers(1, 3),
    st.integers(0, 3),
    st.sampled_from([state for state in MemberState if state is not MemberState.LEFT]),
    st.integers(0, 3),
)


def merged(order: list[Claim]) -> Table:
    table = Table(10)
    for claim in order:
        held = table.members.get(claim.node)
        old = table.is_old(claim)
        changed = table.merge(claim, 0.0)
        assert not (old and changed), "the short cut left out what was news"
        assert table.merge(claim, 0.0) is None, "the same again was news"
        if held is not None and changed is not None and changed.new is not None:
            assert (changed.new.peer.epoch, changed.new.incarnation, changed.new.state) >= (
                held.peer.epoch,
                held.incarnation,
                held.state,
            )
    return table


@given(st.lists(claims, min_size=1, max_size=4))
def test_claims_in_any_order_give_the_same(given_claims: list[Claim]) -> None:
    first = merged(given_claims)
    for order in permutations(given_claims):
        other = merged(list(order))
        assert other.members == first.members
        assert other.digest == first.digest


@given(st.lists(claims, max_size=6), st.lists(claims, max_size=6))
def test_a_full_copy_gives_what_its_claims_gave(ours: list[Claim], theirs: list[Claim]) -> None:
    one, other, both = merged(ours), merged(theirs), merged(ours + theirs)
    for node in list(other.members):
        one.merge(other.claim(node, full=True), 0.0)
    assert one.members == both.members
    assert one.digest == both.digest


def test_a_life_without_a_body_is_not_taken_up() -> None:
    table = Table(10)
    assert table.merge(Claim(NODES[0], 1, 0, MemberState.ALIVE), 0.0) is None
    table.merge(Claim(NODES[0], 1, 0, MemberState.ALIVE, body(1, 0)), 0.0)
    assert table.merge(Claim(NODES[0], 2, 0, MemberState.DOWN), 0.0) is None
    assert table.members[NODES[0]].state is MemberState.ALIVE


def test_who_left_is_not_brought_in_by_the_memory_of_others() -> None:
    table = Table(10)
    assert table.merge(Claim(NODES[0], 1, 0, MemberState.LEFT, body(1, 0)), 0.0) is None
    assert not table.members


def test_a_full_table_lets_nobody_in_and_keeps_those_it_has() -> None:
    table = Table(1)
    table.merge(Claim(NODES[0], 1, 0, MemberState.ALIVE, body(1, 0)), 0.0)
    assert table.merge(Claim(NODES[1], 1, 0, MemberState.ALIVE, body(1, 0)), 0.0) is None
    assert table.merge(Claim(NODES[0], 1, 0, MemberState.DOWN), 0.0) is not None
    assert list(table.members) == NODES[:1]


def test_digests_leave_suspicions_out_and_tell_lives_words_and_deaths_apart() -> None:
    digests = {
        merged([Claim(NODES[0], epoch, 2, state, body(epoch, said))]).digest
        for epoch, state, said in [
            (1, MemberState.ALIVE, 0),
            (2, MemberState.ALIVE, 0),
            (1, MemberState.ALIVE, 1),
            (1, MemberState.DOWN, 0),
            (1, MemberState.AWAY, 0),
        ]
    }
    assert len(digests) == 5
    assert merged([Claim(NODES[0], 1, 2, MemberState.SUSPECT, body(1, 0))]).digest in digests
    table = merged([Claim(NODES[0], 1, 2, MemberState.ALIVE, body(1, 0))])
    table.drop(NODES[0])
    assert table.digest == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans())))
def test_a_pool_is_a_set(steps: list[tuple[int, bool]]) -> None:
    pool, expected = Pool(), set[str]()
    for number, inside in steps:
        pool.keep(NodeId(str(number)), inside=inside)
        (expected.add if inside else expected.discard)(str(number))
        assert sorted(pool.nodes) == sorted(expected)
