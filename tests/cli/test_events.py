"""`mill events`: a line for each change, JSON for programs, filters, ids that resume, and its end by Ctrl-C."""

import json
import signal
import subprocess
from collections.abc import Callable

from tests.cli.conftest import Mill
from tests.client.fake_api import FakeApi

Start = Callable[..., subprocess.Popen[str]]


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def play(api: FakeApi, step: str, name: str) -> None:
    """A task, to its end."""
    task_id = api.do(lambda: api.add(step, name=name))
    while not api.do(lambda: api.tasks[task_id].record.status.terminal):
        continue


def test_each_change_is_a_line_with_time_id_status_and_why(api: FakeApi, start: Start) -> None:
    play(api, "exit 3", "web")
    play(api, "fail pull_error auth who\x1b[1m are you?", "db")
    process = start("events", "--after", "e-0")
    assert lines(process, 5) == [
        "2026-01-02T03:04:05.678Z  web-0001  starting\n",
        "2026-01-02T03:04:06.678Z  web-0001  running\n",
        "2026-01-02T03:04:07.678Z  web-0001  failed: exited with code 3\n",
        "2026-01-02T03:04:08.678Z  db-0002  starting\n",
        "2026-01-02T03:04:09.678Z  db-0002  failed: pull_error (auth): who\\x1b[1m are you?\n",
    ]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 130


def test_json_is_one_object_a_line_as_the_api_sends_it(api: FakeApi, start: Start) -> None:
    api.do(lambda: api.add("exit 0", name="web"))
    process = start("events", "--after", "other-4", "--json")
    gap, *events = [json.loads(line) for line in lines(process, 4)]
    assert gap == {"gap": {"missed": None, "message": "who knows"}}
    assert [(event["id"], event["task"]["status"]) for event in events] == [
        ("e-1", "starting"), ("e-2", "running"), ("e-3", "stopped"),
    ]  # fmt: skip
    assert events[0]["time"] == "2026-01-02T03:04:05.678Z"


def test_a_change_of_which_others_may_know_better_says_so(api: FakeApi, start: Start) -> None:
    play(api, "exit 3", "web")
    api.partial = True
    *_, ended = lines(start("events", "--after", "e-0"), 3)
    assert ended.endswith("web-0001  failed: exited with code 3  (partial: others may know better)\n")
    *_, ended = lines(start("events", "--after", "e-0", "--json"), 3)
    assert json.loads(ended)["partial"] is True


def test_a_gap_is_told_beside_the_lines(api: FakeApi, start: Start) -> None:
    api.do(lambda: api.add(start=False))
    process = start("events", "--after", "other-4")
    assert len(lines(process, 1)) == 1
    assert process.stderr is not None
    assert process.stderr.readline() == "mill: who knows\n"


def test_filters_go_to_the_api_with_the_whole_id(api: FakeApi, start: Start) -> None:
    task_id = api.do(lambda: api.add("hold", name="web"))
    process = start(
        "events", "--task", "we", "--template", "t", "-l", "a=b", "-s", "running", "--after", "e-0"
    )
    lines(process, 1)
    assert sorted(api.requests[-1].params) == [
        ("after", "e-0"), ("label", "a=b"), ("status", "running"), ("task", task_id), ("template", "t"),
    ]  # fmt: skip


def test_bad_input_is_one_line(mill: Mill, api: FakeApi) -> None:
    problem = {
        "type": "urn:mill:problem:bad-field",
        "title": "t",
        "status": 400,
        "detail": "is not KEY=VALUE",
        "field": "label",
    }
    api.answers["/v1/events"] = (400, json.dumps(problem).encode())
    assert mill("events", "-l", "x", code=2).stderr == "mill: label: is not KEY=VALUE\n"
    assert "no task nobody" in mill("events", "--task", "nobody", code=2).stderr
