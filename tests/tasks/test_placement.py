"""Placement: it fits, the image is there, tasks are spread; and whatever two leaders believe, no node is overcommitted."""

from collections.abc import Callable
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.errors import FieldError, NoCapacity
from mill.model import NodeState, Resources
from mill.tasks.ledger import Ledger
from mill.tasks.placement import Offer, fits, rank
from mill.units import GIB, MIB

FOUR = Resources(4.0, 4 * GIB)
SMALL = Resources(1.0, GIB)


def offer(name: str, free: Resources = FOUR, **more: Any) -> Offer:
    return attrs.evolve(Offer(f"id-{name}", name, FOUR, free), **more)


def names(offers: list[Offer]) -> list[str]:
    return [each.name for each in offers]


def test_what_does_not_fit_or_takes_no_tasks_falls_out() -> None:
    offers = [
        offer("small", Resources(0.5, 4 * GIB)),
        offer("little", Resources(4.0, 512 * MIB)),
        offer("draining", state=NodeState.DRAINING),
        offer("drained", state=NodeState.DRAINED),
        offer("away", away=True),
        offer("promised", promised=Resources(3.5, GIB)),
        offer("good"),
    ]
    assert names(rank(SMALL, offers, Random(1))) == ["good"]


def test_a_node_that_holds_the_image_comes_before_an_emptier_one() -> None:
    offers = [offer("empty"), offer("busy", Resources(1.0, GIB), has_image=True)]
    assert names(rank(SMALL, offers, Random(1))) == ["busy", "empty"]


def test_among_equals_tasks_are_spread_by_what_is_scarcest() -> None:
    offers = [
        offer("no memory", Resources(4.0, GIB)),
        offer("half", Resources(2.0, 4 * GIB)),
        offer("empty"),
    ]
    assert names(rank(SMALL, offers, Random(1))) == ["empty", "half", "no memory"]


def test_many_at_once_are_spread_though_no_node_has_said_anything_new() -> None:
    offers, placed = {name: offer(name) for name in "abcd"}, []
    for _ in range(16):
        chosen = rank(SMALL, offers.values(), Random(1))[0]
        placed.append(chosen.name)
        offers[chosen.name] = chosen.promise(SMALL)
    assert {name: placed.count(name) for name in "abcd"} == dict.fromkeys("abcd", 4)
    with pytest.raises(NoCapacity):
        rank(SMALL, offers.values(), Random(1))


def test_equals_are_drawn_by_lot_and_the_same_lot_draws_the_same() -> None:
    offers = [offer(name) for name in "abcdefgh"]
    drawn = [names(rank(SMALL, offers, Random(seed))) for seed in range(30)]
    assert drawn == [names(rank(SMALL, offers[::-1], Random(seed))) for seed in range(30)]
    assert len({order[0] for order in drawn}) == 8


@given(
    st.lists(st.tuples(st.floats(0.0, 4.0), st.integers(0, 4 * GIB), st.booleans()), min_size=1, max_size=8),
    st.floats(0.01, 4.0),
    st.integers(6 * MIB, 4 * GIB),
)
def test_the_list_is_all_that_fits_and_nothing_else(
    nodes: list[tuple[float, int, bool]], cpu: float, memory: int
) -> None:
    offers = [
        offer(str(number), Resources(cpu, memory), has_image=image)
        for number, (cpu, memory, image) in enumerate(nodes)
    ]
    asked = Resources(cpu, memory)
    fitting = {each.name for each in offers if fits(asked, each.free)}
    try:
        ranked = rank(asked, offers, Random(1))
    except NoCapacity:
        assert fitting == set()
    else:
        assert set(names(ranked)) == fitting
        keys = [(not each.has_image, round(each.fullness(asked), 9)) for each in ranked]
        assert keys == sorted(keys)


def test_a_refusal_says_what_is_free_where() -> None:
    offers = [offer("n1", Resources(0.5, GIB)), offer("n2", Resources(0.25, 2 * GIB))]
    with pytest.raises(NoCapacity) as caught:
        rank(SMALL, offers, Random(1))
    assert str(caught.value) == (
        "no room for 1 cores and 1G: free are 0.5 cores and 1G on n1; 0.25 cores and 2G on n2; "
        "wait for tasks to end or ask for less"
    )
    with pytest.raises(NoCapacity, match="and 15 more nodes"):
        rank(SMALL, [offer(f"n{number}", Resources(0.0, 0)) for number in range(20)], Random(1))
    with pytest.raises(NoCapacity, match="no node takes tasks now"):
        rank(SMALL, [offer("n1", away=True)], Random(1))
    with pytest.raises(NoCapacity, match="no node takes tasks now"):
        rank(SMALL, [], Random(1))


@pytest.mark.parametrize(
    ("asked", "field"),
    [(Resources(9.0, GIB), "cpu"), (Resources(1.0, 90 * GIB), "memory"), (Resources(4.0, 4 * GIB), "cpu")],
)
def test_what_never_fits_names_the_field(asked: Resources, field: str) -> None:
    wide = Offer("id-w", "wide", Resources(4.0, GIB), FOUR)
    tall = Offer("id-t", "tall", Resources(1.0, 4 * GIB), FOUR)
    with pytest.raises(FieldError, match="never fit") as caught:
        rank(asked, [wide, tall], Random(1))
    assert caught.value.field == field


# -- two leaders ----------------------------------------------------------------------------------------------------

SEEDS = 100


def overcommitted(seed: int) -> bool:
    """Two leaders place on the same nodes by what each last heard, which is old; tasks end; whether a node ever held too much."""
    rng = Random(seed)
    ledgers = {name: Ledger(FOUR) for name in "abc"}
    held: dict[str, dict[str, Resources]] = {name: {} for name in ledgers}
    beliefs = [{name: offer(name) for name in ledgers} for _ in range(2)]
    for number in range(60):
        believed = beliefs[rng.randrange(2)]
        if rng.random() < 0.2:
            name = rng.choice("abc")
            believed[name] = offer(name, ledgers[name].free)
        busy = [name for name in ledgers if held[name]]
        if busy and rng.random() < 0.3:
            name = rng.choice(busy)
            task = rng.choice(sorted(held[name]))
            ledgers[name].release(task)
            del held[name][task]
        asked = Resources(rng.choice([0.5, 1.0, 2.0]), rng.choice([256 * MIB, GIB]))
        place(str(number), asked, believed, ledgers, held, rng)
        for tasks in held.values():
            if not fits(
                Resources(sum(t.cpu for t in tasks.values()), sum(t.memory for t in tasks.values())), FOUR
            ):
                return True
    return False


def place(
    task: str,
    asked: Resources,
    believed: dict[str, Offer],
    ledgers: dict[str, Ledger],
    held: dict[str, dict[str, Resources]],
    rng: Random,
) -> None:
    try:
        ranked = rank(asked, believed.values(), rng)
    except NoCapacity:
        return
    for chosen in ranked:
        try:
            ledgers[chosen.name].reserve(task, asked)
        except NoCapacity:
            continue
        held[chosen.name][task] = asked
        believed[chosen.name] = chosen.promise(asked)
        return


def test_two_leaders_at_once_overcommit_no_node() -> None:
    assert [seed for seed in range(SEEDS) if overcommitted(seed)] == []


def trust_the_leader(ledger: Ledger, task_id: str, asked: Resources) -> None:
    ledger.adopt(task_id, asked)


def forget_what_is_reserved(ledger: Ledger, task_id: str, asked: Resources) -> None:
    ledger.check_ever_fits(asked)
    ledger.adopt(task_id, asked)


@pytest.mark.parametrize("bug", [trust_the_leader, forget_what_is_reserved])
def test_a_planted_bug_is_found(
    bug: Callable[[Ledger, str, Resources], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "reserve", bug)
    assert any(overcommitted(seed) for seed in range(SEEDS))
