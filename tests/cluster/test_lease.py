"""The lease: it holds exactly while the answers of the last seconds are a quorum, breaks are seen, and a thousand members cost little."""

from collections.abc import Collection
from time import process_time

from hypothesis import given
from hypothesis import strategies as st

from mill.cluster.claims import NOBODY, Full
from mill.cluster.election import Election, Tuning
from mill.cluster.lease import Lease
from mill.cluster.values import Member, MemberState, NodeId, Peer
from tests.cluster.fabric import node_id

NODES = [node_id(number) for number in range(1, 6)]
ME = NODES[0]
LEASE_S = 5


def quorum(nodes: Collection[NodeId]) -> bool:
    """Three of five, or two with the second."""
    return len(nodes) > 2 or (len(nodes) == 2 and NODES[1] in nodes)


events = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([None, *NODES[1:]]), st.integers(0, 6), st.booleans()),
    max_size=40,
)


@given(events)
def test_it_holds_as_long_as_it_does_when_counted_anew_every_second(
    happened: list[tuple[int, NodeId | None, int, bool]],
) -> None:
    lease, answers = Lease(ME, LEASE_S, quorum), dict[NodeId, int]()
    now, since = 100, None

    def count() -> None:
        nonlocal since
        valid = {node for node, sent in answers.items() if sent + LEASE_S > now} | {ME}
        since = (now if since is None else since) if quorum(valid) else None

    for wait, node, ago, doubted in happened:
        for _ in range(wait):
            now += 1
            count()
            if now >= lease.until:
                lease.review(now)
        if node is not None:
            lease.answer(node, now - ago, now)
            answers[node] = max(now - ago, answers.get(node, 0))
            count()
        if doubted:
            lease.doubt()
        assert lease.holds(now) == lease.review(now) == (since is not None)
        assert lease.since == since


def test_a_break_shows_even_if_nobody_looked_while_it_lasted() -> None:
    lease = Lease(ME, LEASE_S, quorum)
    lease.answer(NODES[1], 100, 100)
    assert (lease.since, lease.until) == (100, 105)
    lease.answer(NODES[1], 107, 107)
    assert lease.since == 107


def test_answers_of_a_thousand_members_cost_a_small_part_of_a_core() -> None:
    """Each of them answers once a second, for ten seconds."""
    nodes = [node_id(number) for number in range(1, 1001)]
    election = Election(nodes[0], NOBODY, Tuning(), 0.0)
    for node in nodes:
        meta = {"founder": "1"} if node == nodes[0] else {}
        member = Member(Peer(node, 1, "n", "127.0.0.1", 4401), MemberState.ALIVE, 0, 0, 0.0, meta)
        election.member(member, 0.0)
    claim = election.claim
    assert claim is not None
    for node in nodes[1:]:
        election.answered(node, claim.mandate, 1.0, 1.0)
    begin = process_time()
    for second in range(2, 12):
        for index, node in enumerate(nodes[1:]):
            at = second + index / 1000
            election.answered(node, claim.mandate, at, at)
    cost = (process_time() - begin) / 10
    print(f"\n{cost * 100:.2f} % of a core")
    assert election.standing(12.0) == Full(since=1.0)
    assert cost <= 0.1
