"""A task's output through the API: both streams, formats, tail, follow, cursors, and what comes right before the end."""

import json

import httpx
import trio

from mill.client import Client
from tests.node import Node
from tests.scenarios.acts import end_of, printed, run, running, spawn, until_printed

TWO_STREAMS = "for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf 'no newline'"


def logs(
    node: Node, task_id: str, query: str = "", accept: str = "text/plain", **headers: str
) -> httpx.Response:
    answer = node.api("GET", f"/v1/logs/{task_id}?{query}", headers={"Accept": accept, **headers})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith(accept)
    return answer


async def test_both_streams_are_there_and_can_be_told_apart(client: Client, node: Node) -> None:
    record = await run(client, "sh", "-c", TWO_STREAMS)
    out, err = "out 1\nout 2\nout 3\nno newline", "err 1\nerr 2\nerr 3\n"
    assert logs(node, record.id, "stream=stdout").text == out
    assert logs(node, record.id, "stream=stderr").text == err
    assert sorted(logs(node, record.id).text) == sorted(out + err)
    assert logs(node, record.id, "stream=stdout&tail=2").text == "out 3\nno newline"
    assert logs(node, record.id, "tail=0").text == ""


async def test_ndjson_has_one_object_a_line_and_its_cursor_resumes(client: Client, node: Node) -> None:
    record = await run(client, "sh", "-c", "for i in 1 2 3 4; do echo $i; done; printf '\\377\\n'")
    rows = [
        json.loads(line) for line in logs(node, record.id, accept="application/x-ndjson").text.splitlines()
    ]
    assert [row.get("text") for row in rows] == ["1\n", "2\n", "3\n", "4\n", None]
    assert rows[-1]["base64"] == "/wo="
    assert all(row["stream"] == "stdout" and row["time"].endswith("Z") for row in rows)
    later = logs(
        node, record.id, f"cursor={rows[1]['cursor']}", accept="application/x-ndjson"
    ).text.splitlines()
    assert [json.loads(line) for line in later] == rows[2:]


async def test_server_sent_events_resume_by_last_event_id_and_say_when_it_is_over(
    client: Client, node: Node
) -> None:
    record = await run(client, "sh", "-c", "echo a; echo b")
    events = logs(node, record.id, "follow=true", accept="text/event-stream").text.strip().split("\n\n")
    fields = [
        dict(line.split(": ", 1) for line in event.splitlines())
        for event in events
        if not event.startswith(":")
    ]
    assert [event["event"] for event in fields] == ["log", "log", "end"]
    assert json.loads(fields[0]["data"])["text"] == "a\n"
    resumed = logs(node, record.id, accept="text/event-stream", **{"Last-Event-ID": fields[0]["id"]}).text
    assert '"b\\n"' in resumed
    assert '"a\\n"' not in resumed


async def test_a_follow_shows_lines_as_they_come_and_ends_with_the_task(client: Client) -> None:
    task_id = await spawn(client, "sh", "-c", "echo one; printf tw; sleep 0.3; echo o; sleep 0.3; echo three")
    with trio.fail_after(20):
        seen = [
            (line.data, (await client.get(task_id)).status.terminal) async for line in client.logs(task_id)
        ]
    assert b"".join(data for data, _ in seen) == b"one\ntwo\nthree\n"
    assert seen[0] == (b"one\n", False)


async def test_a_partial_line_is_shown_live(client: Client) -> None:
    task_id = await running(client, "sh", "-c", "printf 'password: '; sleep 100")
    await until_printed(client, task_id, "password: ")
    await client.kill(task_id, grace=0)
    await end_of(client, task_id)


async def test_what_was_written_right_before_the_end_is_there(client: Client) -> None:
    """64 KiB fit a pipe: they are in it when the task has ended already."""
    script = "head -c 60000 /dev/zero | tr '\\0' x; echo; seq 1 500; echo last >&2"
    for _ in range(3):
        record = await run(client, "sh", "-c", script)
        text = await printed(client, record.id, stream="stdout")
        assert text == "x" * 60000 + "\n" + "".join(f"{i}\n" for i in range(1, 501))
        assert await printed(client, record.id, stream="stderr") == "last\n"


async def test_a_lot_of_output_comes_whole_and_in_order(client: Client) -> None:
    record = await run(client, "seq", "1", "200000", cpu=2)
    assert await printed(client, record.id) == "".join(f"{i}\n" for i in range(1, 200_001))
    assert await printed(client, record.id, tail=3) == "199998\n199999\n200000\n"


async def test_since_and_until_cut_by_time(client: Client) -> None:
    record = await run(client, "sh", "-c", "echo early; sleep 0.6; echo late")
    lines = [line async for line in client.logs(record.id, follow=False)]
    middle = lines[0].time + 0.3
    assert await printed(client, record.id, since=middle) == "late\n"
    assert await printed(client, record.id, until=middle) == "early\n"


async def test_a_follower_that_leaves_takes_nothing_with_it(client: Client, node: Node) -> None:
    task_id = await running(client, "sh", "-c", "while :; do echo x; sleep 0.01; done")
    for _ in range(3):
        with httpx.stream(
            "GET",
            f"{node.address}/v1/logs/{task_id}?follow=true",
            headers={"Authorization": f"Bearer {node.token}"},
        ) as answer:
            assert next(answer.iter_text()).startswith("x")
    assert (await client.get(task_id)).status == "running"
    await client.kill(task_id, grace=0)
    await end_of(client, task_id)


async def test_logs_of_a_task_that_is_not_known(node: Node) -> None:
    assert node.api("GET", "/v1/logs/no-such-task").status_code == 404
