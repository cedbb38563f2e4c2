"""The bench runs and tells its figures; what they are is judged where nothing else runs."""

from tests.bench import start


def test_the_start_bench_measures_both_pairs() -> None:
    running, answer = start.measure(3)
    for pair in (running, answer):
        assert min(*pair.ours, *pair.theirs) > 0
    assert len(running.ours) == len(running.theirs) == 3
    assert "bound 1.15: held" in start.verdict("a", 1.1, start.RUNNING_BOUND)
    assert "NOT HELD" in start.verdict("a", 1.2, start.RUNNING_BOUND)


def test_medians_and_parts() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (start.at(values, 0.5), start.at(values, 0.99), start.at([3.0], 0.99)) == (50.5, 100.0, 3.0)
    assert start.Pair([2.0, 4.0, 9.0], [2.0, 2.0, 2.0]).ratio() == 2
