"""Commands on tasks by id: `inspect`, `logs`, `wait`, `kill`, and ids that are cut short."""

import json
import signal
import subprocess
from collections.abc import Callable

import pytest

from mill.model import Mount, MountType, Size
from tests.cli.conftest import Mill
from tests.client.fake_api import FakeApi

Start = Callable[..., subprocess.Popen[str]]


def add(api: FakeApi, *steps: str, **said: object) -> str:
    return api.do(lambda: api.add(*steps, **said))  # type: ignore[arg-type]


def test_inspect_shows_the_whole_record(mill: Mill, api: FakeApi) -> None:
    task_id = add(
        api, "exit 3", name="coop", env={"B": "secret", "A": "x"}, labels={"team": "blue"}, command=("sh", "-c", "a b"),
        mounts=(Mount("/data", source="/srv", read_only=True), Mount("/t", MountType.TMPFS, size=Size(1024**2))),
    )  # fmt: skip
    api.do(lambda: api.change(api.tasks[task_id], peak_memory=3_000_000, oom_kills=2))
    shown = dict(line.split(":", 1) for line in mill("inspect", task_id).stdout.splitlines())
    shown = {key: value.strip() for key, value in shown.items()}
    assert shown == {
        "id": "coop-0001", "status": "failed", "reason": "exited with code 3", "exit code": "3", "oom kills": "2",
        "created": "2026-01-02T03:04:05.678Z", "started": "2026-01-02T03:04:05.928Z (after 0.250s)",
        "finished": "2026-01-02T03:16:05.678Z (after 11m)", "elapsed": "11m",
        "address": "coop-0001.mill:8080", "node": "node-3 (n3)", "cpu": "0.25 cores", "memory": "256M",
        "peak memory": "2.9M", "image": "busybox", "command": "sh -c 'a b'", "args": "'exit 3'", "env": "A B",
        "labels": "team=blue", "network": "mesh", "port": "8080", "timeout": "1h", "pull timeout": "10m",
        "pull": "missing", "grace": "10s", "mounts": "/srv on /data (read-only), tmpfs of 1M on /t",
    }  # fmt: skip
    assert "secret" not in mill("inspect", task_id, "--json").stdout


def test_inspect_of_a_pull_tells_how_far_it_is(mill: Mill, api: FakeApi) -> None:
    task_id = api.do(lambda: api.add(image="unpulled", start=False))
    assert "pulled so far: 30% (300B of 1.0K)\n" in mill("inspect", task_id).stdout


def test_several_records_are_shown_apart(mill: Mill, api: FakeApi) -> None:
    first, second = add(api, "hold"), add(api, "hold")
    blocks = mill("inspect", first, second).stdout.split("\n\n")
    assert [block.splitlines()[0].split()[-1] for block in blocks] == [first, second]
    assert json.loads(mill("inspect", first, "--json").stdout)["id"] == first


def test_an_id_may_be_cut_short_while_it_fits_one_task(mill: Mill, api: FakeApi) -> None:
    coop = add(api, "exit 0", name="coop")
    for _ in range(7):
        add(api, "exit 0", name="other")
    assert mill("wait", "coop").stdout == f"{coop} stopped: exited with code 0\n"
    assert mill("inspect", "other", code=2).stderr == (
        "mill: 'other' fits 7 tasks: other-0008, other-0007, other-0006, other-0005, other-0004, ...; write more of the id\n"
    )
    assert mill("logs", "nobody", code=2).stderr == "mill: no task nobody\n"


def test_an_exact_id_wins_over_those_that_begin_with_it(mill: Mill, api: FakeApi) -> None:
    task_id = add(api, "exit 3")
    api.do(lambda: api.tasks.update({f"{task_id}x": api.tasks[task_id]}))
    assert mill("wait", task_id, code=3).stdout == f"{task_id} failed: exited with code 3\n"


def test_logs_go_to_their_streams(mill: Mill, api: FakeApi) -> None:
    task_id = add(api, "out one", "err two", "out- three")
    result = mill("logs", task_id)
    assert (result.stdout_bytes, result.stderr_bytes) == (b"one\nthree", b"two\n")
    assert mill("logs", "--stream", "stderr", task_id).stdout == ""
    assert mill("logs", "-n", "1", task_id).stdout == "three"


def test_logs_keep_every_byte_and_tell_of_dropped_ones(mill: Mill, api: FakeApi) -> None:
    task_id = api.do(lambda: api.add(start=False))
    task = api.tasks[task_id]
    api.do(lambda: api.write(task, "stdout", bytes(range(256)), dropped=1000))
    result = mill("logs", task_id)
    assert result.stdout_bytes == bytes(range(256))
    assert result.stderr == "mill: 1000 bytes of stdout are gone: the node's logs were over their limit\n"


def test_timestamps_stand_before_each_line_but_not_inside_one(mill: Mill, api: FakeApi) -> None:
    task_id = add(api, "out one", "out- tw", "err oops", "out o", "err- end")
    result = mill("logs", "-t", task_id)
    assert result.stdout == "2026-01-02T03:04:05.678Z one\n2026-01-02T03:04:06.678Z two\n"
    assert result.stderr == "2026-01-02T03:04:07.678Z oops\n2026-01-02T03:04:09.678Z end"


def test_logs_as_json_are_the_api_s_objects(mill: Mill, api: FakeApi) -> None:
    task_id = add(api, "out one", "err two")
    lines = mill("logs", "--json", task_id).stdout.splitlines()
    assert [json.loads(line) for line in lines] == api.tasks[task_id].log


def test_since_and_until_take_a_time_or_how_long_ago(mill: Mill, api: FakeApi) -> None:
    task_id = add(api, "out one")
    mill("logs", "--since", "10m", "--until", "2026-01-02T05:00:00+01:00", task_id)
    params = dict(api.requests[-1].params)
    assert params == {"since": "2026-01-02T03:06:05.678Z", "until": "2026-01-02T04:00:00.000Z"}
    assert "--since: 'noon' is neither a time" in mill("logs", "--since", "noon", task_id, code=2).stderr


def test_a_follow_ends_quietly_with_ctrl_c(start: Start, api: FakeApi) -> None:
    task_id = add(api, "out one", "hold")
    process = start("logs", "-f", task_id)
    assert process.stdout is not None
    assert process.stdout.readline() == "one\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 130
    assert api.tasks[task_id].killed_with == []


def test_a_follow_into_a_closed_pipe_ends_quietly(start: Start, api: FakeApi) -> None:
    task_id = add(api, *(f"out {'x' * 1000}" for _ in range(200)), "hold")
    process = start("logs", "-f", task_id)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("x")
    process.stdout.close()
    assert process.wait(10) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_wait_exits_with_the_first_bad_code(mill: Mill, api: FakeApi) -> None:
    ids = [add(api, step) for step in ("exit 0", "exit 5", "signal 9")]
    result = mill("wait", *ids, code=5)
    assert result.stdout.splitlines() == [
        f"{ids[0]} stopped: exited with code 0", f"{ids[1]} failed: exited with code 5", f"{ids[2]} failed: died of SIGKILL",
    ]  # fmt: skip
    assert json.loads(mill("wait", ids[0], "--json").stdout)["exit_code"] == 0


def test_wait_gives_up_after_its_timeout(mill: Mill, api: FakeApi) -> None:
    task_id = add(api, "hold")
    result = mill("wait", "--timeout", "100ms", task_id, code=1)
    assert result.stderr == f"mill: {task_id} is still running after 0.1 s\n"
    assert "--timeout: 'soon' is not a duration" in mill("wait", "--timeout", "soon", task_id, code=2).stderr


def test_wait_for_running_is_content_with_a_task_that_has_run(mill: Mill, api: FakeApi) -> None:
    assert mill("wait", "--for", "running", add(api, "hold")).stdout.endswith(" is running\n")
    mill("wait", "--for", "running", add(api, "exit 3"))
    mill("wait", "--for", "running", add(api, "fail pull_error auth no", image="unpulled"), code=125)


def test_kill_waits_for_the_end_and_tells_it(mill: Mill, api: FakeApi) -> None:
    ids = [add(api, "hold"), add(api, "hold")]
    result = mill("kill", *ids, "--signal", "INT", "--grace", "1m")
    assert result.stdout == "".join(f"{task_id} stopped: killed with SIGTERM\n" for task_id in ids)
    assert api.tasks[ids[0]].killed_with == [("INT", 60.0)]


def test_kill_without_waiting_says_that_it_is_on_its_way(mill: Mill, api: FakeApi) -> None:
    task_id = add(api, "stubborn")
    assert mill("kill", "--no-wait", task_id).stdout == f"{task_id} is running, and is being killed\n"
    assert json.loads(mill("kill", "--no-wait", "--json", task_id).stdout)["id"] == task_id


def test_kill_of_one_that_has_ended_changes_nothing(mill: Mill, api: FakeApi) -> None:
    task_id = add(api, "exit 3")
    assert mill("kill", task_id).stdout == f"{task_id} failed: exited with code 3\n"


@pytest.mark.parametrize(
    ("option", "value"), [("--signal", "BANG"), ("--signal", "0"), ("--grace", "soon"), ("--grace", "-1")]
)
def test_kill_refuses_what_it_does_not_understand(mill: Mill, api: FakeApi, option: str, value: str) -> None:
    task_id = add(api, "hold")
    assert f"{option}: '{value}' is not a" in mill("kill", option, value, task_id, code=2).stderr
    assert api.tasks[task_id].killed_with == []
