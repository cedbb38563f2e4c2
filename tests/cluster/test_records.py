"""The replicated log: whatever the order, loss and repetition, all nodes come to hold the same, and no node claims too much."""

from random import Random

import attrs
import pytest

from mill.cluster.entries import (
    ENDED,
    PULLING,
    RUNNING,
    START,
    Changed,
    Delta,
    Mark,
    Opened,
    Put,
    View,
    Want,
)
from mill.cluster.records import Backwards, Overtaken, Records
from tests.cluster.fabric import LIMIT_BYTES, Fabric, dumps, held, node_id, shown

A, B, C = map(node_id, (1, 2, 3))


def test_what_is_put_is_shown_and_its_marks_count_up() -> None:
    records = Records(A, 1)
    first = records.put("t-1", PULLING, b"pulling")
    second = records.put("t-2", PULLING, b"pulling")
    last = records.put("t-1", ENDED, b"ended")
    assert [entry.mark for entry in (first, second, last)] == [(1, 1), (1, 2), (1, 3)]
    assert (last.born, last.ended) == (Mark(1, 1), Mark(1, 3))
    assert records.lookup("t-1") == View(last)
    assert records.lookup("t-2") == View(second)
    assert records.lookup("t-3") is None
    assert [view.entry for view in records.at_stake(A)] == [second]


def test_what_is_drafted_is_seen_by_nobody_before_it_is_published() -> None:
    records = Records(A, 1)
    before = records.head_hash()
    entry = records.draft("t-1", PULLING, b"")
    assert records.lookup("t-1") is None
    assert records.delta(Want(A, START, START), 1000).entries == ()
    assert records.head_hash() == before
    assert records.publish(entry) == [Changed(None, View(entry))]
    assert records.head_hash() != before


def test_a_draft_that_is_never_published_leaves_no_trace_with_the_others() -> None:
    fabric = Fabric(2, Random(1))
    fabric.put(0, "t-1", PULLING)
    fabric.nodes[0].draft("lost", PULLING, b"")
    fabric.put(0, "t-2", PULLING)
    assert fabric.settle() is not None
    assert fabric.nodes[1].line(A).head == (1, 3)
    assert not fabric.nodes[1].line(A).gapped


def test_drafts_are_published_in_their_order() -> None:
    records = Records(A, 1)
    early, late = records.draft("t-1", PULLING, b""), records.draft("t-2", PULLING, b"")
    records.publish(late)
    with pytest.raises(Overtaken):
        records.publish(early)
    assert records.lookup("t-1") is None


def test_a_task_never_goes_back() -> None:
    records = Records(A, 1)
    records.put("t-1", ENDED, b"")
    before = held(records)
    with pytest.raises(Backwards):
        records.draft("t-1", RUNNING, b"")
    assert held(records) == before


def test_an_end_may_be_amended_and_stays_the_same_end() -> None:
    records = Records(A, 1)
    ended = records.put("t-1", ENDED, b"ended")
    cleaned = records.put("t-1", ENDED, b"cleaned")
    assert (cleaned.ended, cleaned.payload) == (ended.mark, b"cleaned")
    assert records.lookup("t-1") == View(cleaned)


def test_rumours_in_any_order_close_their_gap_by_themselves() -> None:
    fabric = Fabric(2, Random(1))
    first = fabric.put(0, "t-0", PULLING)
    assert fabric.settle() is not None
    entries = [fabric.put(0, f"t-{number}", PULLING) for number in range(1, 6)]
    for entry in reversed(entries):
        fabric.rumour(entry, [1])
    assert fabric.nodes[1].line(A).head == (1, 6)
    assert fabric.nodes[0].head_hash() == fabric.nodes[1].head_hash()
    assert first.task in {view.entry.task for view in fabric.nodes[1].tasks()}


def test_more_marks_beyond_a_gap_than_are_remembered_do_no_harm() -> None:
    fabric = Fabric(2, Random(1))
    fabric.put(0, "lost", PULLING)
    for number in range(3000):
        fabric.rumour(fabric.put(0, f"t-{number}", PULLING), [1])
    assert len(fabric.nodes[1]) == 3000
    assert fabric.settle() is not None
    assert len(fabric.nodes[1]) == 3001


def test_a_pull_that_breaks_off_claims_nothing_and_is_made_good_by_another() -> None:
    fabric = Fabric(3, Random(1))
    for number in range(40):
        fabric.put(0, f"t-{number % 25}", PULLING, b"x" * 100)
    fabric.pull(1, 0, chunks=2)
    assert fabric.nodes[1].line(A).head == START
    assert list(fabric.overstated()) == []
    fabric.pull(2, 1)
    assert fabric.nodes[2].line(A).head == START
    assert fabric.settle() is not None
    assert all(len(records) == 25 for records in fabric.nodes)


def test_a_chunk_keeps_its_limit_and_always_makes_progress() -> None:
    records = Records(A, 1)
    for number in range(100):
        records.put(f"t-{number}", PULLING, b"x" * 600)
    records.put("large", PULLING, b"x" * 100_000)
    want: Want | None = Want(A, START, START)
    other, sizes = Records(B, 1), []
    while want is not None:
        delta = records.delta(want, 64 * 1024)
        sizes.append((sum(entry.size_bytes for entry in delta.entries), len(delta.entries)))
        _, want = other.absorb(delta)
    assert all(size <= 64 * 1024 or count == 1 for size, count in sizes)
    assert shown(other) == shown(records)
    assert other.head_hash() == records.head_hash()


def test_what_a_newer_mill_says_beside_an_entry_is_kept_and_passed_on() -> None:
    fabric = Fabric(3, Random(1))
    fabric.nodes[0].put("t-1", PULLING, b"payload", extra=b"from the future")
    fabric.pull(1, 0)
    fabric.pull(2, 1)
    view = fabric.nodes[2].lookup("t-1")
    assert view is not None
    assert view.entry.extra == b"from the future"
    later = fabric.nodes[0].put("t-1", 7, b"a phase that is not known here")
    assert fabric.settle() is not None
    assert fabric.nodes[2].lookup("t-1") == View(later)
    assert later.terminal


def test_two_halves_that_gave_the_same_id_agree_on_whom_it_names() -> None:
    fabric = Fabric(3, Random(1))
    fabric.put(1, "same", RUNNING)
    fabric.put(0, "same", ENDED)
    assert fabric.settle() is not None
    owners = {view.entry.owner for records in fabric.nodes if (view := records.lookup("same"))}
    assert owners == {B}


def test_the_same_is_held_after_a_restart() -> None:
    fabric = Fabric(2, Random(1))
    for number in range(20):
        fabric.put(0, f"t-{number}", RUNNING)
    fabric.nodes[0].put("t-3", ENDED, b"")
    fabric.nodes[0].put("t-1", ENDED, b"")
    fabric.nodes[0].retire({"t-3"})
    fabric.put(1, "u-1", PULLING)
    assert fabric.settle() is not None
    fabric.nodes[1].condemn(fabric.nodes[1].verdict(A, 4))
    for number, records in enumerate(fabric.nodes):
        again = Records(records.me, 1, dumps(records))
        assert held(again) == held(records)
        assert again.head_hash() == records.head_hash()
        assert again.put("next", PULLING, b"").mark == records.put("next", PULLING, b"").mark, number


def test_what_a_verdict_says_already_is_not_said_again_with_another_time() -> None:
    fabric = Fabric(2, Random(1))
    fabric.put(0, "t-1", RUNNING)
    assert fabric.settle() is not None
    first = fabric.nodes[1].verdict(A, 4, 100.0)
    fabric.nodes[1].condemn(first)
    assert fabric.nodes[1].verdict(A, 5, 99.0) is first
    fabric.put(0, "t-2", RUNNING)
    assert fabric.settle() is not None
    further = fabric.nodes[1].verdict(A, 5, 200.0)
    assert (further.at, further.head > first.head) == (200.0, True)


# -- a disk that was rolled back ------------------------------------------------------------------------------------


def rolled_back(fabric: Fabric, stored: list[Delta]) -> Records:
    """Node 0 starts again with an old disk; both sides tell each other what they know, the others first."""
    fabric.nodes[0] = Records(A, 1, stored)
    return fabric.nodes[0]


def test_who_knows_less_of_its_own_log_than_others_have_seen_goes_on_in_a_new_epoch() -> None:
    fabric = Fabric(2, Random(1))
    ended = fabric.put(0, "t-1", ENDED)
    assert fabric.settle() is not None
    later = attrs.evolve(ended, mark=Mark(3, 1), ended=Mark(3, 1))
    assert fabric.nodes[1].merge([later]) == []
    assert fabric.settle() is not None
    assert fabric.nodes[0].epoch > later.mark.epoch
    assert fabric.nodes[0].lookup("t-1") == fabric.nodes[1].lookup("t-1")


def test_no_answer_ends_between_two_tasks_that_have_the_same_mark() -> None:
    teller, asker = Records(A, 1), Records(B, 1)
    first = teller.put("t-1", RUNNING, b"." * LIMIT_BYTES)
    teller._logs[A].merge(attrs.evolve(first, task="t-2"))
    asker.absorb(teller.delta(Want(A, START, START), LIMIT_BYTES))
    assert {view.entry.task for view in asker.tasks(A)} == {"t-1", "t-2"}


def test_an_old_disk_is_seen_at_the_first_contact_and_a_new_epoch_is_opened() -> None:
    fabric = Fabric(2, Random(1))
    fabric.put(0, "t-1", RUNNING)
    stored = dumps(fabric.nodes[0])
    fabric.put(0, "t-2", RUNNING)
    assert fabric.settle() is not None
    owner = rolled_back(fabric, stored)
    (want,) = owner.missing(fabric.nodes[1].digest())
    effects, _ = owner.absorb(fabric.nodes[1].delta(want, 10**6))
    assert effects[0] == Opened(2)
    assert [effect.entry.mark for effect in effects if isinstance(effect, Put)] == [(2, 1), (2, 2)]
    assert owner.put("t-3", PULLING, b"").mark == (2, 3)
    assert fabric.settle() is not None
    assert {view.entry.task for view in fabric.nodes[1].tasks()} == {"t-1", "t-2", "t-3"}


def test_a_disk_that_is_as_new_as_what_others_know_keeps_its_epoch() -> None:
    fabric = Fabric(2, Random(1))
    fabric.put(0, "t-1", RUNNING)
    assert fabric.settle() is not None
    owner = rolled_back(fabric, dumps(fabric.nodes[0]))
    assert owner.missing(fabric.nodes[1].digest()) == []
    assert owner.epoch == 1


def test_an_end_that_others_have_read_stands_against_a_disk_that_does_not_know_it() -> None:
    """Even when the owner hears of it long after it has ended the task in another way."""
    fabric = Fabric(3, Random(1))
    fabric.put(0, "t-1", RUNNING)
    assert fabric.settle() is not None
    stored = dumps(fabric.nodes[0])
    truth = fabric.put(0, "t-1", ENDED, b"exit 0")
    fabric.put(0, "t-2", RUNNING)
    assert fabric.settle([0, 2]) is not None
    owner = rolled_back(fabric, stored)
    owner.put("t-3", ENDED, b"")
    owner.put("t-1", ENDED, b"interrupted")
    assert fabric.settle([0, 1]) is not None
    assert owner.epoch == 1
    assert fabric.settle() is not None
    for records in fabric.nodes:
        view = records.lookup("t-1")
        assert view is not None
        assert (view.entry.payload, view.entry.ended) == (b"exit 0", truth.mark)
        assert records.lookup("t-2") is not None


def test_what_was_forgotten_is_not_put_again_by_an_old_disk() -> None:
    fabric = Fabric(2, Random(1))
    fabric.put(0, "t-1", RUNNING)
    stored = dumps(fabric.nodes[0])
    fabric.put(0, "t-1", ENDED)
    fabric.nodes[0].retire({"t-1"})
    late = fabric.put(0, "t-2", RUNNING)
    assert fabric.settle() is not None
    owner = rolled_back(fabric, stored)
    fabric.rumour(late, [0])
    assert fabric.settle() is not None
    assert owner.epoch == 2
    assert owner.lookup("t-1") is fabric.nodes[1].lookup("t-1") is None


def test_a_verdict_reaches_what_is_put_again_in_another_epoch() -> None:
    fabric = Fabric(2, Random(1))
    fabric.put(0, "t-1", RUNNING)
    stored = dumps(fabric.nodes[0])
    fabric.put(0, "t-2", RUNNING)
    assert fabric.settle() is not None
    fabric.nodes[1].condemn(fabric.nodes[1].verdict(A, 1))
    owner = rolled_back(fabric, stored)
    assert fabric.settle() is not None
    assert owner.epoch == 2
    assert all(view.lost for records in fabric.nodes for view in records.tasks())
    fabric.put(0, "t-3", RUNNING)
    assert fabric.settle() is not None
    assert {view.entry.task for view in fabric.nodes[1].at_stake(A)} == {"t-3"}
