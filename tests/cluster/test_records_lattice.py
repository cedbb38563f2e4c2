"""Merging is a lattice: it commutes, associates and is idempotent, for entries, verdicts and floors alike."""

from collections.abc import Callable
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mill.cluster.entries import ENDED, PULLING, START, Changed, Delta, Entry, Mark, Verdict, View
from mill.cluster.ownerlog import OwnerLog
from mill.cluster.records import Records
from tests.cluster.fabric import dumps, held, node_id, shown

A, B, C, D = map(node_id, (1, 2, 3, 4))

Fact = Callable[[Records], object]

marks = st.builds(Mark, st.integers(1, 2), st.integers(1, 6))


@st.composite
def any_entries(draw: st.DrawFn) -> Entry:
    """Even those that no owner would write."""
    phase = draw(st.integers(PULLING, ENDED))
    return Entry(
        owner=draw(st.sampled_from([A, B])),
        mark=draw(marks),
        task=draw(st.sampled_from("xyz")),
        phase=phase,
        payload=draw(st.binary(max_size=1)),
        born=draw(marks),
        ended=draw(marks) if phase == ENDED else None,
    )


verdicts = st.builds(
    Verdict,
    st.sampled_from([A, B]),
    head=marks,
    term=st.integers(1, 3),
    leader=st.sampled_from([C, D]),
    reach=st.one_of(st.just(START), marks),
    ended=st.frozensets(marks, max_size=2),
    at=st.sampled_from([0.0, 1.0, 2.0]),
)
any_facts = st.one_of(
    any_entries().map(lambda entry: lambda records: records.merge([entry])),
    verdicts.map(lambda verdict: lambda records: records.condemn(verdict)),
)
steps = st.lists(st.tuples(st.sampled_from("tuvwx"), st.integers(0, 2), st.booleans()), max_size=25)


def life(walked: list[tuple[str, int, bool]]) -> list[Delta]:
    """All that an owner ever says who moves tasks forward and now and then forgets: each entry and each floor by itself."""
    owner, said, lives = Records(A, 1), list[Delta](), dict[str, int]()
    for name, further, forget in walked:
        task = f"{name}{lives.setdefault(name, 0)}"
        view = owner.lookup(task)
        phase = min(ENDED, (view.entry.phase if view is not None else PULLING) + further)
        entry = owner.put(task, phase, bytes([len(said)]))
        said.append(Delta(A, START, (entry,), (), START, START))
        if phase == ENDED:
            lives[name] += 1
        if forget:
            ended = {view.entry.task for view in owner.tasks() if view.terminal}
            for view in owner.hindering(ended):
                again = owner.put(view.entry.task, view.entry.phase, view.entry.payload)
                said.append(Delta(A, START, (again,), (), START, START))
            owner.retire(ended)
            said.append(Delta(A, START, (), (), owner.line(A).floor, START))
    return said


def told(facts: list[Fact]) -> Records:
    records = Records(D, 1)
    for fact in facts:
        fact(records)
    return records


def absorbing(delta: Delta) -> Fact:
    return lambda records: records.absorb(delta)


def join(*parts: Records) -> Records:
    return Records(D, 1, [dump for part in parts for dump in dumps(part)])


def state(records: Records) -> object:
    """Without heads: a dump does not tell of each mark beyond a gap whether it was known."""
    lines = {owner: records.line(owner) for owner in records.owners}
    return shown(records), {
        owner: (line.floor, line.entries, line.verdicts) for owner, line in lines.items() if line.seen > START
    }


@given(st.lists(any_facts, max_size=12), st.randoms(use_true_random=False))
def test_any_entries_and_verdicts_in_any_order_and_number_come_to_the_same(
    facts: list[Fact], rng: Random
) -> None:
    other = facts + rng.sample(facts, len(facts) // 2)
    rng.shuffle(other)
    assert held(told(facts)) == held(told(other))
    assert told(facts).head_hash() == told(other).head_hash()


@given(steps, st.lists(verdicts, max_size=3), st.randoms(use_true_random=False))
def test_so_do_floors_of_an_owner_whose_tasks_go_forward(
    walked: list[tuple[str, int, bool]], given: list[Verdict], rng: Random
) -> None:
    facts = [absorbing(said) for said in life(walked)]
    facts += [lambda records, verdict=verdict: records.condemn(verdict) for verdict in given]  # type: ignore[misc]  # mypy cannot infer a lambda's default
    other = facts + rng.sample(facts, len(facts) // 2)
    rng.shuffle(other)
    assert held(told(facts)) == held(told(other))


@given(steps, st.lists(verdicts, max_size=4), st.randoms(use_true_random=False))
def test_joining_what_nodes_hold_commutes_associates_and_is_idempotent(
    walked: list[tuple[str, int, bool]], given: list[Verdict], rng: Random
) -> None:
    facts = [absorbing(said) for said in life(walked)]
    facts += [lambda records, verdict=verdict: records.condemn(verdict) for verdict in given]  # type: ignore[misc]  # as above
    x, y, z = (told([fact for fact in facts if rng.random() < share]) for share in (0.3, 0.5, 0.8))
    assert state(join(x, y)) == state(join(y, x))
    assert state(join(join(x, y), z)) == state(join(x, join(y, z)))
    assert state(join(x, x)) == state(join(x)) == state(x)


@given(st.lists(any_facts, max_size=12))
def test_what_changed_is_said_and_nothing_else_is(facts: list[Fact]) -> None:
    records, seen = Records(D, 1), dict[tuple[str, str], View]()
    for fact in facts:
        changes = fact(records)
        assert isinstance(changes, list)
        for change in changes:
            assert isinstance(change, Changed)
            assert change.after is not None
            key = (change.after.entry.owner, change.after.entry.task)
            assert change.before == seen.get(key)
            assert change.before != change.after
            seen[key] = change.after
    assert shown(records) == seen


@given(st.lists(any_entries(), max_size=30))
def test_the_checksums_are_those_of_what_is_there(entries: list[Entry]) -> None:
    log = OwnerLog(A)
    for entry in entries:
        log.merge(entry)
    total = 0
    for entry in log.entries.values():
        total ^= entry.checksum
    assert log.line().entries == total
    assert list(log.after(START)) == sorted(log.entries.values(), key=lambda e: (e.mark, e.task))
    assert log.live == {entry.task for entry in log.entries.values() if not entry.terminal}
