"""Commands while an image is pulled: bars on a terminal, lines off it, and a stdout that is the task's alone."""

import json
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import IO

import pytest

from tests.cli.conftest import COMMAND, Mill
from tests.client.fake_api import FakeApi
from tests.terminal import CTRL_C, Terminal, on_terminal

MIB = 2**20
PULL = (f"pull {MIB} {4 * MIB}", f"pull {3 * MIB} {4 * MIB}")
IMAGE = ("--image", "unpulled")

Start = Callable[..., subprocess.Popen[str]]
OnTerminal = Callable[..., AbstractContextManager[Terminal]]


@pytest.fixture
def terminal(environ: dict[str, str]) -> OnTerminal:
    def run(*args: str, width: int = 80, output_too: bool = True) -> AbstractContextManager[Terminal]:
        return on_terminal([*COMMAND, *args], environ, width=width, output_too=output_too)

    return run


def shows(words: str, text: str) -> bool:
    return words in text


def go_on(api: FakeApi) -> None:
    api.do(api.tasks["unpulled-0001"].go_on.set)


def wait_for_line(stream: IO[str] | None, words: str) -> None:
    assert stream is not None
    assert any(words in line for line in stream), f"{words!r} did not come"


def watch_pull(shown: Terminal, api: FakeApi) -> None:
    """Both steps of it."""
    text = shown.until(partial(shows, "25%"))
    assert "pulling unpulled\n" in text
    assert "abababababab  downloading  ━" in text
    go_on(api)
    assert "3M of 4M" in shown.until(partial(shows, "75%"))
    go_on(api)


def test_run_shows_bars_and_then_nothing_but_the_task(terminal: OnTerminal, api: FakeApi) -> None:
    with terminal("run", *IMAGE, "--", *PULL, "out hello", "err there") as shown:
        watch_pull(shown, api)
        assert shown.finish() == 0
        assert shown.screen.text == "mill: task unpulled-0001 at unpulled-0001.mill:8080\nhello\nthere\n"


def test_run_s_stdout_is_the_task_s_alone(terminal: OnTerminal, api: FakeApi) -> None:
    with terminal("run", *IMAGE, "--", *PULL, "out- hello", output_too=False) as shown:
        watch_pull(shown, api)
        assert shown.finish() == 0
        assert shown.output == "hello"
        assert shown.screen.text == "mill: task unpulled-0001 at unpulled-0001.mill:8080\n"


def test_ctrl_c_in_a_pull_kills_the_task_and_leaves_a_clean_screen(
    terminal: OnTerminal, api: FakeApi
) -> None:
    with terminal("run", *IMAGE, "--", *PULL) as shown:
        shown.until(partial(shows, "25%"))
        shown.press(CTRL_C)
        assert shown.finish() == 143
        assert shown.screen.text == (
            "mill: task unpulled-0001 at unpulled-0001.mill:8080\n"
            "mill: killing unpulled-0001; Ctrl-C again kills it at once\n"
            "mill: task unpulled-0001 stopped: killed\n"
        )
    assert api.tasks["unpulled-0001"].killed_with == [(None, None)]


def test_a_pull_that_fails_is_told_below_no_bars(terminal: OnTerminal, api: FakeApi) -> None:
    with terminal(
        "run", *IMAGE, "--", *PULL, "fail pull_error network the registry is gone", width=60
    ) as shown:
        watch_pull(shown, api)
        assert shown.finish() == 125
        assert shown.screen.text.splitlines()[1:] == [
            "mill: task unpulled-0001 failed: pull_error (network): the r",
            "egistry is gone",
        ]


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_run_shows_no_pull_when_it_is_not_wanted(terminal: OnTerminal, api: FakeApi, option: str) -> None:
    with terminal("run", option, *IMAGE, "--", PULL[0], "out hello", output_too=False) as shown:
        while not any(one.path.endswith("/logs") for one in api.requests):
            assert shown.process.poll() is None
        go_on(api)
        assert shown.finish() == 0
        assert "hello" in shown.output
        assert "pulling" not in shown.written


def test_without_a_terminal_run_tells_of_a_pull_in_two_lines(start: Start, api: FakeApi) -> None:
    process = start("run", *IMAGE, "--", PULL[0], "out hello")
    wait_for_line(process.stderr, "mill: pulling unpulled")
    go_on(api)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "hello\n", "mill: pulled unpulled in 0.250s\n")


def test_spawn_wait_shows_bars_until_the_task_runs(terminal: OnTerminal, api: FakeApi) -> None:
    with terminal("spawn", "--wait", *IMAGE, "--", *PULL, "hold") as shown:
        watch_pull(shown, api)
        assert shown.finish() == 0
        assert shown.screen.text == (
            "id:      unpulled-0001\n"
            "address: unpulled-0001.mill:8080\n"
            "status:  pulling\n"
            "mill: task unpulled-0001 is running\n"
        )
    assert not api.tasks["unpulled-0001"].record.status.terminal


def test_ctrl_c_in_spawn_wait_only_stops_watching(terminal: OnTerminal, api: FakeApi) -> None:
    with terminal("spawn", "--wait", *IMAGE, "--", *PULL) as shown:
        shown.until(partial(shows, "25%"))
        shown.press(CTRL_C)
        assert shown.finish() == 130
        assert shown.screen.text.splitlines()[3:] == [
            "mill: stopped watching unpulled-0001, which goes on; see 'mill ps'"
        ]
    assert api.tasks["unpulled-0001"].killed_with == []


@pytest.mark.parametrize(
    ("steps", "code", "line"),
    [
        (("hold",), 0, "is running"),
        (("fail pull_error not_found no such image",), 125, "failed: pull_error (not_found): no such image"),
        (
            ("fail start_error command_not_found no ls",),
            127,
            "failed: start_error (command_not_found): no ls",
        ),
    ],
)
def test_spawn_wait_exits_with_the_end_s_code(
    mill: Mill, steps: tuple[str, ...], code: int, line: str
) -> None:
    result = mill("spawn", "--wait", "--image", "app", "--", *steps, code=code)
    assert result.stdout.splitlines()[0] == "id:      app-0001"
    assert result.stderr == f"mill: task app-0001 {line}\n"


def test_spawn_wait_as_json_is_the_record_and_nothing_else(mill: Mill) -> None:
    result = mill("spawn", "--wait", "--json", "--image", "app", "--", "hold")
    assert (json.loads(result.stdout)["id"], json.loads(result.stdout)["status"]) == ("app-0001", "running")
    assert result.stderr == ""


def test_spawn_wait_without_a_terminal_prints_the_id_at_once(start: Start, api: FakeApi) -> None:
    process = start("spawn", "--wait", *IMAGE, "--", PULL[0], "hold")
    wait_for_line(process.stdout, "status:  pulling")
    wait_for_line(process.stderr, "mill: pulling unpulled")
    go_on(api)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (0, "")
    assert err == "mill: pulled unpulled in 0.250s\nmill: task unpulled-0001 is running\n"


def test_spawn_wait_that_loses_the_task_says_so(start: Start, api: FakeApi) -> None:
    process = start("spawn", "--wait", *IMAGE, "--", PULL[0])
    wait_for_line(process.stderr, "mill: pulling unpulled")
    task = api.tasks["unpulled-0001"]
    api.do(api.tasks.clear)
    api.do(task.go_on.set)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert err == "mill: lost sight of unpulled-0001, which may still run: no task unpulled-0001\n"


def test_each_look_at_a_pull_may_take_the_node_a_quarter_of_a_second(
    terminal: OnTerminal, api: FakeApi
) -> None:
    with terminal("spawn", "--wait", *IMAGE, "--", *PULL, "hold") as shown:
        watch_pull(shown, api)
        assert shown.finish() == 0
    looks = [one.param("timeout") for one in api.requests if one.param("wait") == "running"]
    assert (looks[0], looks[-1]) == ("0", "60"), "at once, and in the end until it runs"
    assert set(looks[1:-1]) == {"0.25"}


def test_ps_tells_how_far_a_pull_is(mill: Mill, api: FakeApi) -> None:
    api.do(lambda: api.add(image="unpulled", start=False))
    assert mill("ps").stdout.splitlines()[1].split()[2:4] == ["pulling", "30%"]
