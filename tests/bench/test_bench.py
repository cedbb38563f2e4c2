"""The bench runs and tells its figures; what they are is judged where nothing else runs."""

from pathlib import Path

import pytest

from tests.bench import dns, logs, start
from tests.images import write_docker_archive


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


def test_the_logs_bench_stores_every_line_and_follows_those_that_come(tmp_path: Path) -> None:
    archive = write_docker_archive(tmp_path / "lines.tar", {"lines:latest": logs.lines_image()})
    with logs.mill_side(archive) as mill:
        stored = mill.store(2)
        latencies = mill.latencies(5)
        assert 0 < stored.took_s < 30
        assert 0 < stored.cpu_s < mill.cpu.seconds()  # which counted the second task, too
    assert len(latencies) == 5
    assert 0 < min(latencies) < max(latencies) < 30
    assert not mill.cpu.group.exists()


def test_lines_that_docker_sends_are_read_wherever_they_were_cut() -> None:
    sent = b"\x01\0\0\0\0\0\0\x04one\n" + b"\x01\0\0\0\0\0\x01\x02" + b"x" * 257 + b"\n"
    for size in (1, 7, 9, 1000):
        chunks = (sent[at : at + size] for at in range(0, len(sent), size))
        assert list(logs.frames(chunks)) == [b"one\n", b"x" * 257 + b"\n"]


def test_a_bound_from_below_and_one_from_above() -> None:
    assert logs.verdict("a", 5.1, ">=", 5.0).endswith("bound >= 5: held")
    assert logs.verdict("a", 4.9, ">=", 5.0).endswith("NOT HELD")
    assert logs.verdict("a", 0.1, "<=", 0.2).endswith("held")
    assert logs.verdict("a", 0.3, "<=", 0.2).endswith("NOT HELD")
