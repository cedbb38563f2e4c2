"""The ledger never promises more than there is, whatever comes in whatever order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.errors import FieldError, NoCapacity
from mill.model import Resources
from mill.tasks.ledger import Ledger
from mill.units import GIB, MIB

ROUNDING = 1e-6

asked = st.builds(Resources, st.floats(0.01, 3.0), st.integers(6 * MIB, GIB))
steps = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.one_of(st.none(), asked)), max_size=60)


@given(steps, st.floats(0.01, 4.0), st.integers(6 * MIB, 2 * GIB))
def test_no_sequence_of_reserving_and_releasing_goes_over_capacity(
    steps: list[tuple[str, Resources | None]], cpu: float, memory: int
) -> None:
    ledger = Ledger(Resources(cpu, memory))
    held: dict[str, Resources] = {}
    for task_id, wanted in steps:
        if wanted is None:
            ledger.release(task_id)
            held.pop(task_id, None)
        elif task_id not in held:
            free = ledger.free
            try:
                ledger.reserve(task_id, wanted)
            except NoCapacity:
                assert wanted.cpu > free.cpu or wanted.memory > free.memory
            else:
                held[task_id] = wanted
        assert ledger.reservations == held
        assert ledger.reserved.cpu <= cpu + ROUNDING
        assert ledger.reserved.memory <= memory
        assert ledger.free.cpu >= 0
        assert ledger.free.memory == memory - ledger.reserved.memory


@pytest.mark.parametrize(("cores", "tenths"), [(0.3, 3), (0.7, 7), (1.0, 10), (2.0, 20)])
def test_tenths_of_a_core_fill_their_sum_and_one_more_finds_no_room(cores: float, tenths: int) -> None:
    ledger = Ledger(Resources(cores, GIB))
    for index in range(tenths):
        ledger.reserve(str(index), Resources(0.1, MIB))
    with pytest.raises(NoCapacity):
        ledger.reserve("more", Resources(0.1, MIB))


def test_a_refusal_says_what_is_free_and_changes_nothing() -> None:
    ledger = Ledger(Resources(2.0, GIB))
    ledger.reserve("a", Resources(1.5, 512 * MIB))
    with pytest.raises(NoCapacity, match=r"no room for 1 cores and 100M: 0\.5 cores and 512M are free"):
        ledger.reserve("b", Resources(1.0, 100 * MIB))
    assert list(ledger.reservations) == ["a"]


def test_what_can_never_fit_names_the_field() -> None:
    ledger = Ledger(Resources(2.0, GIB))
    with pytest.raises(FieldError) as cpu:
        ledger.check_ever_fits(Resources(2.5, MIB))
    assert cpu.value.field == "cpu"
    with pytest.raises(FieldError) as memory:
        ledger.check_ever_fits(Resources(1.0, 2 * GIB))
    assert memory.value.field == "memory"
    ledger.check_ever_fits(Resources(2.0, GIB))


def test_refusals_are_counted_by_reason_and_nothing_else_is() -> None:
    ledger = Ledger(Resources(2.0, GIB))
    ledger.check_ever_fits(Resources(2.0, GIB))
    ledger.reserve("a", Resources(1.5, MIB))
    for asked in (Resources(1.0, MIB), Resources(0.1, GIB)):
        with pytest.raises(NoCapacity):
            ledger.reserve("b", asked)
    for asked in (Resources(2.5, MIB), Resources(1.0, 2 * GIB), Resources(3.0, 2 * GIB)):
        with pytest.raises(FieldError):
            ledger.check_ever_fits(asked)
    assert ledger.refusals == {"no_capacity": 2, "never_fits": 3}


def test_an_adopted_task_holds_its_share_even_where_that_is_too_much() -> None:
    ledger = Ledger(Resources(1.0, GIB))
    ledger.adopt("a", Resources(3.0, 2 * GIB))
    assert ledger.free == Resources(0.0, 0)
    with pytest.raises(NoCapacity):
        ledger.reserve("b", Resources(0.01, MIB))
    ledger.release("a")
    ledger.release("a")
    assert ledger.free == Resources(1.0, GIB)
