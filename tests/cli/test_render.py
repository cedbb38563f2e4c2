"""How single values look: cores, elapsed times, reasons, pulls."""

from typing import Any

import attrs
import pytest

from mill.cli import ends, render
from mill.cli.output import aligned
from mill.model import PullProgress, Reason, Record, Spec, Status, Time, Times

RECORD = Record(
    "x-ab12", Spec("busybox", "x"), Status.RUNNING, "n", "n1", "x-ab12.mill:8080", Times(Time(1000.0))
)


@pytest.mark.parametrize(
    ("cpu", "text"), [(0.0, "0.0"), (0.004, "0.0"), (0.012, "0.01"), (0.8, "0.8"), (12.34, "12.3")]
)
def test_cores(cpu: float, text: str) -> None:
    assert render.cores(cpu) == text


def test_elapsed_counts_from_the_start_and_stands_still_at_the_end() -> None:
    assert render.elapsed_s(Times(Time(1000.0)), 1010.0) == 10
    assert render.elapsed_s(Times(Time(1000.0), started=Time(1005.0)), 1010.0) == 5
    assert render.elapsed_s(Times(Time(1000.0), started=Time(1005.0), finished=Time(1006.0)), 9999.0) == 1
    assert render.elapsed_s(Times(Time(1000.0)), 900.0) == 0, "a client's clock may be behind the node's"


def ended(reason: Reason | None, status: Status = Status.FAILED, **facts: Any) -> Record:
    return attrs.evolve(RECORD, status=status, reason=reason, **facts)


@pytest.mark.parametrize(
    ("record", "code", "state", "why"),
    [
        (ended(Reason.EXIT, Status.STOPPED, exit_code=0), 0, "stopped", "exited with code 0"),
        (ended(Reason.EXIT, exit_code=7), 7, "failed (exit 7)", "exited with code 7"),
        (ended(Reason.SIGNAL, exit_code=134, signal=6), 134, "failed (SIGABRT)", "died of SIGABRT"),
        (ended(Reason.KILLED, Status.STOPPED, exit_code=143, signal=15), 143, "stopped (killed)", "killed with SIGTERM"),
        (ended(Reason.KILLED, Status.STOPPED, exit_code=0), 143, "stopped (killed)", "killed"),
        (ended(Reason.KILLED, Status.STOPPED, exit_code=4), 4, "stopped (killed)", "killed"),
        (ended(Reason.KILLED, Status.STOPPED), 143, "stopped (killed)", "killed"),
        (ended(Reason.OOM, exit_code=137, signal=9, message="too big"), 137, "failed (oom)", "oom: too big"),
        (ended(Reason.TIMEOUT, exit_code=137, signal=9, message="slow"), 124, "failed (timeout)", "timeout: slow"),
        (ended(Reason.PULL_ERROR, detail="auth", message="who"), 125, "failed (pull_error)", "pull_error (auth): who"),
        (ended(Reason.START_ERROR, detail="disk", message="full"), 125, "failed (start_error)", "start_error (disk): full"),
        (ended(Reason.INTERRUPTED), 125, "failed (interrupted)", "interrupted"),
    ],
)  # fmt: skip
def test_every_end_has_a_code_and_words(record: Record, code: int, state: str, why: str) -> None:
    assert (ends.exit_code(record), ends.state(record), ends.why(record)) == (code, state, why)
    assert ends.sentence(record) == f"x-ab12 {record.status}: {why}"


def test_what_has_not_ended_has_no_code() -> None:
    assert ends.exit_code(RECORD) == 0
    assert ends.sentence(RECORD) == "x-ab12 is running"


def test_a_pull_tells_how_far_it_is() -> None:
    def told(pull: PullProgress | None) -> tuple[str, str]:
        record = attrs.evolve(RECORD, status=Status.PULLING, pull=pull)
        return render.task_row(record, 1000.0)[2], dict(render.record_pairs(record, 1000.0)).get(
            "pulled so far", ""
        )

    assert told(None) == ("pulling", "")
    assert told(PullProgress(2048)) == ("pulling", "2K")
    assert told(PullProgress(512, 2048)) == ("pulling 25%", "25% (512B of 2K)")


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert aligned([("A", "LONG", "C"), ("wide", "x", ""), ("y", "z", "end")]) == [
        "A     LONG  C",
        "wide  x",
        "y     z     end",
    ]
