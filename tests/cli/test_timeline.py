"""`mill inspect --timeline`: phases as bars to scale, of whole, failed and unfinished lives, at any width, with and without a terminal."""

import os
import pty
import subprocess
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.cli import timeline
from mill.model import Record, Spec, Status, Time, Times
from tests.cli.conftest import COMMAND, Mill
from tests.client.fake_api import FakeApi
from tests.client.fake_node import EPOCH

FIELDS = [field.name for field in attrs.fields(Times) if field.name not in {"created", "extra"}]
WHOLE = {
    "placed": 0.5, "pull_began": 0.5, "unpack_began": 1, "fetched": 2, "pulled": 2.5, "queued": 2.5, "start_began": 4,
    "snapshot_made": 4.25, "container_made": 4.75, "started": 4.75, "launched": 5, "finished": 9, "cleaned": 10,
}  # fmt: skip


def made(times: dict[str, float], status: Status = Status.STOPPED) -> Record:
    known: dict[str, Any] = {name: Time(EPOCH + at) for name, at in times.items()}
    record_times = Times(Time(EPOCH), **known)
    return Record("x-ab12", Spec("busybox", "x"), status, "n", "n1", "x-ab12.mill:8080", record_times)


def spans(record: Record, now: float = 20.0) -> dict[str, tuple[float, float]]:
    return {
        phase.name: (round(phase.begin - EPOCH, 3), round(phase.end - EPOCH, 3))
        for phase in timeline.phases(record, EPOCH + now)
    }


def test_each_phase_lasts_from_its_begin_to_its_end() -> None:
    assert spans(made(WHOLE)) == {
        "place": (0, 0.5), "fetch": (0.5, 2), "unpack": (1, 2.5), "queue": (2.5, 4), "snapshot": (4, 4.25),
        "create": (4.25, 4.75), "start": (4.75, 5), "run": (4.75, 9), "clean up": (9, 10),
    }  # fmt: skip


def test_a_phase_that_goes_on_lasts_until_now() -> None:
    pulling = made({"placed": 0.5, "pull_began": 0.5}, Status.PULLING)
    assert spans(pulling) == {"place": (0, 0.5), "fetch": (0.5, 20)}
    assert [phase.open for phase in timeline.phases(pulling, EPOCH + 20)] == [False, True]
    running = made({"placed": 0, "queued": 1, "start_began": 2, "started": 3}, Status.RUNNING)
    assert spans(running)["run"] == (3, 20)


def test_a_phase_in_which_a_task_died_lasts_until_its_end() -> None:
    assert spans(made({"queued": 1, "finished": 4}, Status.STOPPED)) == {"queue": (1, 4)}
    failed = made({"queued": 1, "start_began": 2, "snapshot_made": 3, "finished": 8}, Status.FAILED)
    assert spans(failed) == {"queue": (1, 2), "snapshot": (2, 3), "create": (3, 8)}


def test_a_pull_that_others_had_begun_before_is_shown_from_the_task_s_own_begin() -> None:
    assert spans(made({"pull_began": 1, "unpack_began": -30, "fetched": -5, "pulled": 2, "finished": 3})) == {
        "fetch": (1, 1), "unpack": (0, 2),
    }  # fmt: skip


def test_bars_stand_to_scale() -> None:
    lines = timeline.draw(made(WHOLE), 0.0, 80)
    rows = ["".join(row) for row in timeline.aligned(lines, "#")]
    assert max(map(len, rows)) == 80
    assert rows == [
        "place     ###                                                             0.500s",
        "fetch        #########                                                    1.500s",
        "unpack          ##########                                                1.500s",
        "queue                    ##########                                       1.500s",
        "snapshot                          ##                                      0.250s",
        "create                              ###                                   0.500s",
        "start                                  ##                                 0.250s",
        "run                                    ###########################        4.250s",
        "clean up                                                         #######  1.000s",
    ]


times = st.dictionaries(st.sampled_from(FIELDS), st.floats(-5, 10_000, allow_nan=False), max_size=len(FIELDS))


@given(times, st.sampled_from(Status), st.integers(-10, 300), st.floats(-100, 20_000))
def test_whatever_is_known_is_drawn_within_the_columns(
    known: dict[str, float], status: Status, columns: int, now: float
) -> None:
    """Also what clocks that were set back left."""
    lines = timeline.draw(made(known, status), EPOCH + now, columns)
    rows = timeline.aligned(lines, "#")
    assert len({len("".join(row)) for row in rows}) <= 1
    for line in lines:
        assert line.indent >= 0
        assert line.length >= 1
    assert all(len("".join(row)) <= max(columns, timeline.LEAST_BAR + 8 + 14) for row in rows)


def task_of(api: FakeApi, **times: Any) -> str:
    task_id = api.do(lambda: api.add("exit 0", name="web", start=False))
    known = made({**WHOLE, **times}).times
    api.do(lambda: api.change(api.tasks[task_id], times=known, status=Status.STOPPED))
    return task_id


def test_without_a_terminal_it_is_80_columns_of_plain_text(
    mill: Mill, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    first, second = task_of(api), task_of(api)
    blocks = mill("inspect", "--timeline", first, second).stdout.split("\n\n")
    title, *rows = blocks[0].splitlines()
    assert title == f"{first}  stopped  from 2026-01-02T03:04:05.678Z"
    assert len(rows) == len(list(timeline.phases(made(WHOLE), 0.0)))
    assert {len(row) for row in rows} == {80}
    assert rows[7].split() == ["run", "\u2588" * rows[7].count("\u2588"), "4.250s"]
    assert blocks[1].startswith(second)


def test_an_output_that_cannot_show_blocks_gets_ascii(api: FakeApi, environ: dict[str, str]) -> None:
    shown = subprocess.run(
        [*COMMAND, "inspect", "--timeline", task_of(api)],
        env={**environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "60"}, capture_output=True, check=True,
    ).stdout.decode("ascii")  # fmt: skip
    assert {len(row) for row in shown.splitlines()[1:]} == {60}
    assert "##" in shown


def test_on_a_terminal_bars_have_colours_and_its_width(api: FakeApi, environ: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    task_id = task_of(api)
    env = {**environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    env.pop("NO_COLOR", None)
    subprocess.run([*COMMAND, "inspect", "--timeline", task_id], env=env, stdout=theirs, check=True)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    text = shown.decode()
    assert "\x1b[32m" in text
    assert text.count("\n") == 10


def test_json_and_bars_together_are_a_slip(mill: Mill, api: FakeApi) -> None:
    assert "leave it or --json out" in mill("inspect", "--timeline", "--json", task_of(api), code=2).stderr
