"""The bench runs and tells its figures; what they are is judged where nothing else runs."""

import pytest

from tests.bench import dns, start


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


DNSPERF = """> NOERROR web-a1b2.mill A 0.000100
> NOERROR web-a1b2.mill A 0.000300
Statistics:

  Queries sent:         {sent}
  Queries completed:    2 (100.00%)
  Queries lost:         1 (0.00%)

  Queries per second:   4996.5
"""


def test_what_dnsperf_says_is_read_and_an_answer_that_is_none_is_noticed() -> None:
    got = dns.read(DNSPERF.format(sent=3), 0.5)
    assert (got.rate, got.lost, got.p99_s, got.cores) == (4996.5, 1, 0.0003, 0.5)
    assert got.mean_s == pytest.approx(0.0002)
    with pytest.raises(AssertionError, match="1 answers were no answers"):
        dns.read(DNSPERF.format(sent=4), 0.5)
