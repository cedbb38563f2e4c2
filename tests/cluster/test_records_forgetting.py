"""What has expired is forgotten everywhere and stays so: by its owner's order, or by others for an owner that is gone."""

from random import Random

from mill.cluster.entries import (
    ENDED,
    RUNNING,
    Changed,
    Verdict,
    View,
)
from mill.cluster.records import Records
from tests.cluster.fabric import Fabric, dumps, node_id

A, B, C = map(node_id, (1, 2, 3))


def test_what_has_expired_is_forgotten_by_all_and_no_old_copy_brings_it_back() -> None:
    fabric = Fabric(3, Random(1))
    old = fabric.put(0, "t-1", RUNNING)
    fabric.rumour(old, [1, 2])
    ended = fabric.put(0, "t-1", ENDED)
    fabric.put(0, "t-2", RUNNING)
    assert fabric.settle([0, 1]) is not None
    assert fabric.nodes[0].retire({"t-1"}) == [Changed(View(ended), None)]
    assert fabric.settle([0, 1]) is not None
    assert fabric.nodes[1].lookup("t-1") is None
    fabric.pull(1, 2)
    fabric.rumour(old, [0, 1])
    fabric.rumour(ended, [0, 1])
    assert fabric.nodes[0].lookup("t-1") is fabric.nodes[1].lookup("t-1") is None
    assert fabric.settle() is not None
    assert {view.entry.task for view in fabric.nodes[2].tasks()} == {"t-2"}


def test_only_what_has_expired_is_forgotten() -> None:
    records = Records(A, 1)
    for task in ("t-1", "t-2", "t-3"):
        records.put(task, ENDED, b"")
    records.retire({"t-1", "t-3"})
    assert {view.entry.task for view in records.tasks()} == {"t-2", "t-3"}


def test_a_long_running_task_is_put_again_so_that_those_that_ended_after_it_can_be_forgotten() -> None:
    fabric = Fabric(2, Random(1))
    fabric.put(0, "long", RUNNING, b"the record")
    fabric.put(0, "t-1", ENDED)
    owner = fabric.nodes[0]
    assert owner.retire({"t-1"}) == []
    (hindering,) = owner.hindering({"t-1"})
    again = owner.put(hindering.entry.task, hindering.entry.phase, hindering.entry.payload)
    assert again.born == hindering.entry.born
    assert owner.hindering({"t-1"}) == []
    assert len(owner.retire({"t-1"})) == 1
    assert fabric.settle() is not None
    assert [view.entry.payload for view in fabric.nodes[1].tasks()] == [b"the record"]


def test_a_live_task_hinders_nothing_while_nothing_after_it_has_expired() -> None:
    records = Records(A, 1)
    records.put("t-1", ENDED, b"")
    records.put("long", RUNNING, b"")
    records.put("t-2", ENDED, b"")
    assert records.hindering({"t-1"}) == []
    records.retire({"t-1"})
    assert {view.entry.task for view in records.tasks()} == {"long", "t-2"}


def gone_with_three_tasks() -> tuple[Fabric, Verdict]:
    """Node 0 had a task that ended, one that is lost, and one more that ended; it is gone, and node 1 leads."""
    fabric = Fabric(3, Random(1))
    fabric.put(0, "ended", ENDED)
    fabric.put(0, "lost", RUNNING)
    fabric.put(0, "later", ENDED)
    assert fabric.settle() is not None
    verdict = fabric.nodes[1].verdict(A, 1)
    for number in (1, 2):
        fabric.nodes[number].condemn(verdict)
    return fabric, verdict


def test_what_a_node_that_is_gone_had_is_forgotten_for_it_and_by_it_when_it_returns() -> None:
    fabric, verdict = gone_with_three_tasks()
    fabric.nodes[1].outlive(A, {"ended", "lost"})
    assert fabric.settle([1, 2]) is not None
    assert [view.entry.task for view in fabric.nodes[2].tasks()] == ["later"]
    effects, _ = fabric.nodes[0].absorb(fabric.nodes[1].dump(A))
    gone = [it.before for it in effects if isinstance(it, Changed) and it.after is None]
    assert {view.entry.task for view in gone if view is not None} == {"ended", "lost"}
    assert fabric.settle() is not None
    assert [view.entry.task for records in fabric.nodes for view in records.tasks()] == ["later"] * 3
    assert fabric.nodes[0].verdicts_on(A) == (verdict,)


def test_what_became_of_a_lost_task_after_it_was_forgotten_is_told_as_lost() -> None:
    fabric, _ = gone_with_three_tasks()
    fabric.nodes[1].outlive(A, {"ended", "lost", "later"})
    fabric.put(0, "lost", ENDED, b"in truth")
    assert fabric.settle() is not None
    for records in fabric.nodes:
        (view,) = records.tasks()
        assert view.lost
        assert view.entry.payload == b"in truth"


def test_for_a_node_that_is_gone_nothing_is_forgotten_that_may_still_run_or_lies_behind_a_gap() -> None:
    fabric = Fabric(2, Random(1))
    fabric.put(0, "t-0", ENDED)
    assert fabric.settle() is not None
    fabric.put(0, "t-1", ENDED)
    fabric.rumour(fabric.put(0, "t-2", ENDED), [1])
    assert len(fabric.nodes[1].outlive(A, {"t-0", "t-2"})) == 1
    assert [view.entry.task for view in fabric.nodes[1].tasks()] == ["t-2"]
    again = Records(B, 1, dumps(fabric.nodes[1]))
    again.condemn(again.verdict(A, 1))
    again.outlive(A, {"t-2"})
    assert len(again) == 0
    fabric.put(0, "live", RUNNING)
    assert fabric.settle() is not None
    fabric.nodes[1].outlive(A, {"t-1", "t-2", "live"})
    assert [view.entry.task for view in fabric.nodes[1].tasks()] == ["live"]
