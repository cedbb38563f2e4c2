"""How long a suspect has, by the number of members and of those who noticed."""

import pytest

from mill.cluster.suspicion import Suspicion
from mill.cluster.tuning import Tuning
from mill.cluster.values import NodeId

A, B, C, D = (NodeId(letter * 32) for letter in "abcd")


def test_each_who_notices_shortens_it_and_the_third_to_the_least() -> None:
    suspicion = Suspicion.start(100.0, 100, Tuning(), (A,))
    assert suspicion.deadline == pytest.approx(100 + 48)
    assert suspicion.add((B,))
    assert suspicion.deadline == pytest.approx(100 + 48 - 40 * 0.63093, abs=0.01)
    assert suspicion.add((A, C))
    assert suspicion.deadline == pytest.approx(100 + 8)


def test_nobody_counts_twice_and_a_fourth_not_at_all() -> None:
    suspicion = Suspicion.start(0.0, 20, Tuning(), (A,))
    assert not suspicion.add((A,))
    assert suspicion.add((B, C, D))
    assert suspicion.accusers == (A, B, C)
    assert not suspicion.add((D,))


@pytest.mark.parametrize("reachable", [1, 2, 3])
def test_where_nobody_could_confirm_it_the_shortest_time_holds(reachable: int) -> None:
    assert Suspicion.start(0.0, reachable, Tuning(), (A,)).deadline == 4.0


def test_one_that_nobody_stands_for_lasts_longest() -> None:
    """Learnt from a full copy: an old death is no accusation."""
    assert Suspicion.start(0.0, 10, Tuning(), ()).deadline == 24.0
