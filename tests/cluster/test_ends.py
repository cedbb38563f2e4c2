"""Ends in doubt: whose they are, who is given them, when there is no doubt any more; and that nobody who reads is told two ends of a task."""

import os
from collections.abc import Callable, Collection

import pytest

from mill.cluster import ends as ends_module
from mill.cluster.ends import End, Ends, Tuning
from mill.cluster.entries import ENDED, Entry, Mark
from mill.cluster.values import Member, MemberState, NodeId, Peer
from tests.cluster.fabric import node_id
from tests.cluster.fleet import Broken
from tests.cluster.readers import Readers

A, B, C, D, E = map(node_id, (1, 2, 3, 4, 5))
TUNING = Tuning()
LONG = bool(os.environ.get("MILL_LONG"))
SOON, LATE = TUNING.hurry_s / 2, TUNING.settled_s + TUNING.again_s


def member(node: NodeId, state: MemberState = MemberState.ALIVE) -> Member:
    return Member(Peer(node, 1, "n", "127.0.0.1", 4401), state, 0, 0, 0.0, {})


def made(me: NodeId, *others: NodeId, founder: NodeId = A) -> Ends:
    """Of a node that was in touch for long."""
    members = {node: member(node) for node in (me, *others)}

    def is_quorum(nodes: Collection[NodeId]) -> bool:
        return 2 * len(nodes) > len(members) or (2 * len(nodes) == len(members) and founder in nodes)

    return Ends(me, members, is_quorum)


def end(task: str, owner: NodeId) -> Entry:
    mark = Mark(1, 1)
    return Entry(owner, mark, task, ENDED, b"{}", born=mark, ended=mark)


def told(ends: Ends, task: str = "web") -> Ends:
    ends.expect(task, 0.0)
    ends.publish(end(task, ends.me), 0.0)
    return ends


def given(ends: Ends, now: float) -> dict[NodeId, list[str]]:
    return {node: [entry.task for entry in owed] for node, owed in ends.owed(now).items()}


@pytest.mark.parametrize("ends", [made(A), made(A, B)], ids=["alone", "the founder of two"])
def test_without_a_majority_beside_this_node_there_is_no_doubt(ends: Ends) -> None:
    told(ends)
    assert ends.in_doubt(["web"]) == set()
    assert ends.owed(SOON) == {}


@pytest.mark.parametrize(
    ("ends", "enough"),
    [(made(B, A), [A]), (made(B, A, C), [C]), (made(B, A, C, D), [C, D]), (made(C, A, B, D, E), [D, E])],
    ids=["two", "three", "four", "five"],
)
def test_an_end_is_in_doubt_until_no_majority_is_left_that_has_not_heard_of_it(
    ends: Ends, enough: list[NodeId]
) -> None:
    told(ends)
    assert given(ends, SOON) == {node: ["web"] for node in enough}
    for node in enough:
        ends.turn(SOON, in_touch=True)
        assert ends.in_doubt(["web", "other"]) == {"web"}
        ends.taken("other", node)
        ends.taken("web", node)
    ends.turn(SOON, in_touch=True)
    assert ends.in_doubt(["web"]) == set()
    assert ends.owed(SOON) == {}


def test_of_four_the_founder_alone_is_enough() -> None:
    ends = told(made(B, A, C, D))
    ends.taken("web", A)
    ends.turn(SOON, in_touch=True)
    assert not ends.in_doubt(["web"])


def test_who_has_not_taken_it_in_time_is_not_waited_for_and_given_it_again_at_ever_longer_intervals() -> None:
    ends = told(made(A, B, C))
    times: dict[NodeId, list[float]] = {B: [], C: []}
    for number in range(100):
        for node, tasks in given(ends, number * TUNING.hurry_s / 10).items():
            assert tasks == ["web"]
            times[node].append(number / 10)
    assert times[B][:4] == pytest.approx([0.0, 1.0, 2.5, 4.75], abs=0.2)
    assert times[C][:3] == pytest.approx([1.0, 2.0, 3.5], abs=0.2)
    ends.taken("web", B)
    assert given(ends, LATE) == {C: ["web"]}, "it is not safe before a turn has looked whether in touch"


def test_nobody_is_given_what_is_not_on_the_disk_yet_and_no_time_makes_that_certain() -> None:
    ends = made(A, B, C)
    ends.expect("web", 0.0)
    assert ends.owed(LATE) == {}
    ends.turn(LATE, in_touch=True)
    assert ends.in_doubt(["web"]) == {"web"}
    ends.forget_unpublished("web")
    assert not ends.in_doubt(["web"])
    told(ends).forget_unpublished("web")
    assert ends.in_doubt(["web"]) == {"web"}


def test_what_was_told_long_ago_by_a_node_in_touch_is_certain() -> None:
    ends = told(made(A, B, C))
    ends.turn(TUNING.settled_s - 0.1, in_touch=True)
    assert ends.in_doubt(["web"])
    ends.turn(TUNING.settled_s, in_touch=True)
    assert not ends.in_doubt(["web"])


def test_a_node_that_was_out_of_touch_is_certain_of_nothing_for_a_while() -> None:
    ends = told(made(A, B, C))
    ends.taken("web", B)
    ends.turn(LATE, in_touch=False)
    ends.turn(LATE + TUNING.again_s - 0.1, in_touch=True)
    assert ends.in_doubt(["web"])
    ends.turn(LATE + TUNING.again_s, in_touch=True)
    assert not ends.in_doubt(["web"])


@pytest.mark.parametrize(
    ("others", "doubted"), [((B,), False), ((B, C), False), ((B, C, D), True), ((B, C, D, E), True)]
)
def test_an_end_that_was_heard_is_in_doubt_where_both_may_be_cut_off_together(
    others: tuple[NodeId, ...], *, doubted: bool
) -> None:
    ends = made(E if E not in others else A, *others, founder=C)
    ends.hear("web", B, 0.0)
    assert bool(ends.in_doubt(["web"])) is doubted
    assert ends.owed(LATE) == {}, "its owner gives it to others"
    if doubted:
        assert ends.owner("web") == B
        ends.close(["web", "other"])
        assert not ends.in_doubt(["web"])


def test_a_full_copy_brings_old_ends_and_the_newest_alone_are_doubted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ends_module, "MOST_HEARD", 10)
    ends = told(made(A, B, C, D, E))
    for number in range(100):
        ends.hear(f"task-{number}", B, 0.0)
    assert ends.in_doubt(["web", "task-0", "task-90", "task-91", "task-99"]) == {"web", "task-91", "task-99"}


def test_a_node_that_was_cut_off_for_long_hears_of_others_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it doubts are its own ends: none of them is dropped for another's, and all are given away, or wait in touch."""
    monkeypatch.setattr(ends_module, "MOST_HEARD", 3)
    ends = made(A, B, C)
    tasks = [f"task-{number}" for number in range(5)]
    for task in tasks:
        told(ends, task)
    ends.turn(LATE, in_touch=False)
    ends.hear("other", B, LATE)
    assert ends.in_doubt([*tasks, "other"]) == set(tasks)
    assert given(ends, LATE) == {B: tasks, C: tasks}
    ends.taken("task-0", B)
    ends.turn(LATE + TUNING.again_s, in_touch=True)
    assert ends.in_doubt(tasks) == set(tasks[1:]), "they were told to nobody while it was cut off"
    ends.turn(LATE + TUNING.settled_s, in_touch=True)
    assert not ends.in_doubt(tasks)


def test_many_ends_at_once_go_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends_module, "MOST_OWED", 2)
    ends = made(A, B, C)
    for number in range(5):
        told(ends, f"task-{number}")
    assert [given(ends, SOON) for _ in range(4)] == [
        {B: ["task-0", "task-1"]}, {B: ["task-2", "task-3"]}, {B: ["task-4"]}, {}
    ]  # fmt: skip


def test_only_who_seems_to_be_there_is_given_an_end() -> None:
    members = {A: member(A), B: member(B, MemberState.SUSPECT), C: member(C), D: member(D, MemberState.LEFT)}
    ends = told(Ends(A, members, lambda nodes: len(nodes) > 1))
    assert given(ends, LATE) == {C: ["web"]}


# -- whole engines ----------------------------------------------------------------------------------------------------

SEEDS = range(10 if LONG else 1)
FOR_S = 300.0 if LONG else 120.0


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_whoever_reads_of_whatever_node_is_told_one_end_alone_for_certain(size: int) -> None:
    certain = lost = 0
    for seed in SEEDS:
        readers = Readers(size, seed)
        readers.run(FOR_S)
        certain += len(readers.certain)
        lost += len(readers.lost_after_all())
    print(f"\n{size} nodes: {certain} ends told for certain, {lost} told with a doubt and lost after all")
    assert certain > len(SEEDS) * FOR_S / 4
    assert lost or size == 2, "no end was in danger"


def all_are_certain(_ends: Ends, _tasks: Collection[str]) -> set[str]:
    return set()


def what_others_say_is_certain(_ends: Ends, _task: str, _owner: NodeId, _now: float) -> None:
    pass


def a_second_is_long_enough(_ends: Ends, end: End, before: float) -> bool:
    return end.since <= before + TUNING.settled_s - 1


@pytest.mark.parametrize(
    ("size", "name", "planted"),
    [
        (3, "in_doubt", all_are_certain),
        (5, "hear", what_others_say_is_certain),
        (3, "_is_safe", a_second_is_long_enough),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_a_planted_bug_is_found(
    monkeypatch: pytest.MonkeyPatch, size: int, name: str, planted: Callable[..., object]
) -> None:
    monkeypatch.setattr(Ends, name, planted)
    for seed in range(3, 20):
        try:
            Readers(size, seed).run(FOR_S)
        except Broken as error:
            print(f"\nseed {seed}: {error}")
            return
    pytest.fail("no run has found it")
