"""`mill run`: both streams as they are, the task's code, and what each Ctrl-C does."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from typing import IO

import pytest

from tests.cli.conftest import Mill
from tests.client.fake_api import Cut, FakeApi

Start = Callable[..., subprocess.Popen[str]]
RUN = ("run", "--image", "app")


def test_both_streams_come_out_where_they_belong(mill: Mill) -> None:
    result = mill(*RUN, "--", "out one", "err two", "out- three")
    assert result.stdout_bytes == b"one\nthree"
    assert result.stderr == "mill: task app-0001 at app-0001.mill:8080\ntwo\n"


def test_quiet_hides_the_id_but_not_the_end(mill: Mill) -> None:
    assert mill(*RUN, "-q", "--", "err two").stderr == "two\n"
    assert (
        mill(*RUN, "-q", "--", "exit 3", code=3).stderr == "mill: task app-0002 failed: exited with code 3\n"
    )


@pytest.mark.parametrize(
    ("step", "code", "words"),
    [
        ("exit 3", 3, "exited with code 3"),
        ("signal 11", 139, "died of SIGSEGV"),
        ("fail oom - ran out of memory", 137, "oom: ran out of memory"),
        ("fail timeout - took too long", 124, "timeout: took too long"),
        ("fail pull_error not_found no such image", 125, "pull_error (not_found): no such image"),
        ("fail start_error command_not_found no ls", 127, "start_error (command_not_found): no ls"),
        ("fail start_error permission may not", 126, "start_error (permission): may not"),
        ("fail start_error user who", 125, "start_error (user): who"),
        ("fail interrupted - the host went down", 125, "interrupted: the host went down"),
    ],
)
def test_the_exit_code_is_the_task_s_and_the_line_says_why(
    mill: Mill, step: str, code: int, words: str
) -> None:
    result = mill(*RUN, "--", "out before", step, code=code)
    assert result.stdout == "before\n"
    assert result.stderr.splitlines()[-1] == f"mill: task app-0001 failed: {words}"


def test_json_is_the_log_and_then_the_record(mill: Mill) -> None:
    *lines, record = [
        json.loads(line) for line in mill(*RUN, "--json", "-q", "--", "out a", "err b").stdout.splitlines()
    ]
    assert [(line["stream"], line["text"]) for line in lines] == [("stdout", "a\n"), ("stderr", "b\n")]
    assert (record["id"], record["status"], record["exit_code"]) == ("app-0001", "stopped", 0)


def test_a_connection_that_breaks_is_not_seen(mill: Mill, api: FakeApi) -> None:
    api.cuts = [Cut(1), Cut(1, half=True), Cut(0)]
    assert mill(*RUN, "--", *(f"out {n}" for n in range(5))).stdout == "0\n1\n2\n3\n4\n"


def test_mill_s_own_failure_is_125_and_bad_input_2(mill: Mill, api: FakeApi) -> None:
    assert (
        mill(*RUN, "--cpu", "5", code=125).stderr == "mill: no room for 5 cores; free are 2.75 cores and 5G\n"
    )
    assert mill("run", "nobody", code=2).stderr.startswith("mill: no template 'nobody'")
    assert mill("run", code=2).stderr.startswith("mill: nothing to run")
    api.do(api.stop_listening)
    assert "cannot reach milld" in mill(*RUN, code=125).stderr


def wait_for_line(stream: IO[str] | None, words: str) -> None:
    assert stream is not None
    for line in stream:
        if words in line:
            return
    raise AssertionError(f"{words!r} did not come")


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=10)
    assert "Traceback" not in err
    return out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_kills_the_task_and_shows_its_output_to_the_end(
    start: Start, api: FakeApi, number: int
) -> None:
    process = start(*RUN, "--", "out ready", "hold")
    wait_for_line(process.stdout, "ready")
    process.send_signal(number)
    out, err = finish(process)
    assert process.returncode == 143
    assert out == ""
    assert "mill: killing app-0001; Ctrl-C again kills it at once\n" in err
    assert err.endswith("mill: task app-0001 stopped: killed with SIGTERM\n")
    assert api.tasks["app-0001"].killed_with == [(None, None)]


def test_a_second_ctrl_c_kills_at_once(start: Start, api: FakeApi) -> None:
    process = start(*RUN, "--", "out ready", "stubborn", "err last words")
    wait_for_line(process.stdout, "ready")
    process.send_signal(signal.SIGINT)
    wait_for_line(process.stderr, "killing app-0001")
    process.send_signal(signal.SIGINT)
    _, err = finish(process)
    assert process.returncode == 137
    assert "last words\n" in err
    assert set(api.tasks["app-0001"].killed_with) == {
        (None, None),
        (None, 0.0),
    }  # the second may overtake the first


def test_a_third_ctrl_c_gives_up(start: Start, api: FakeApi) -> None:
    """milld is there, but the task's end does not come."""
    process = start(*RUN, "--", "out ready", "hold")
    wait_for_line(process.stdout, "ready")
    task = api.tasks["app-0001"]
    api.kill = lambda *said: task.killed_with.append(said[1:])  # type: ignore[method-assign]
    for wanted in (1, 2):
        process.send_signal(signal.SIGINT)
        until = time.monotonic() + 10
        while len(task.killed_with) < wanted:
            assert process.poll() is None
            assert time.monotonic() < until
    process.send_signal(signal.SIGINT)
    _, err = finish(process)
    assert process.returncode == 130
    assert err.endswith("mill: gave up on app-0001: it may still run; see 'mill ps'\n")


def test_when_nobody_reads_the_output_the_task_ends_too(start: Start, api: FakeApi) -> None:
    process = start(*RUN, "--", "out first", "hold", *(f"out {'x' * 1000}" for _ in range(200)), "stubborn")
    wait_for_line(process.stdout, "first")
    assert process.stdout is not None
    process.stdout.close()
    api.do(api.tasks["app-0001"].go_on.set)
    assert process.wait(10) == 141
    assert len(api.tasks["app-0001"].killed_with) == 1
    assert process.stderr is not None
    assert process.stderr.read() == "mill: task app-0001 at app-0001.mill:8080\n"
