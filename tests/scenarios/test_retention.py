"""Limits of the log store on a whole node: chatty tasks stay within the bytes, ended ones go with their records in time."""

import threading
import time
from pathlib import Path
from typing import Self

import trio

from mill.client import Client
from mill.logs.segments import SEGMENT_BYTES
from mill.units import MIB
from tests.node import MakeNode, Node
from tests.scenarios.acts import WITHIN_S, end_of, run, spawn

LIMIT_BYTES = 16 * MIB
TASKS = 3
BYTES_EACH = 200 * MIB // TASKS
LINE_BYTES = 100
LINES = BYTES_EACH // LINE_BYTES
CHATTY = f"yes \"$(printf '%099d' 7)\" | head -n {LINES}; echo the last line"


class Watch:
    """How large the log store was at most, looked at all the time by a thread of its own."""

    def __init__(self, logs: Path) -> None:
        self.worst_bytes = 0
        self._logs = logs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.005):
            self.worst_bytes = max(self.worst_bytes, size_of(self._logs))


def size_of(folder: Path) -> int:
    total = 0
    for path in folder.glob("*/*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


async def test_chatty_tasks_stay_within_the_limit_and_readers_are_told(make_node: MakeNode) -> None:
    node: Node = await trio.to_thread.run_sync(
        lambda: make_node(name="chatty", options={"log-max-bytes": "16M", "cpu": "64", "memory": "64G"})
    )
    async with Client(node.address, node.token) as client:
        with Watch(node.data_dir / "logs") as watch:
            tasks = [await spawn(client, "sh", "-c", CHATTY, cpu=1) for _ in range(TASKS)]
            for task_id in tasks:
                assert (await end_of(client, task_id)).exit_code == 0
        print(f"log store: at most {watch.worst_bytes / MIB:.1f} MiB of {LIMIT_BYTES / MIB:.0f}")
        assert watch.worst_bytes <= LIMIT_BYTES + TASKS * SEGMENT_BYTES
        with trio.fail_after(WITHIN_S):
            while size_of(node.data_dir / "logs") > LIMIT_BYTES:  # noqa: ASYNC110 -- no event tells it
                await trio.sleep(0.05)
        newest = 0
        for task_id in tasks:
            rows = [line async for line in client.logs(task_id, follow=False)]
            dropped = sum(row.dropped_bytes for row in rows)
            kept = b"".join(row.data for row in rows)
            assert dropped + len(kept) == LINES * LINE_BYTES + len("the last line\n")
            text = node.api("GET", f"/v1/logs/{task_id}", headers={"Accept": "text/plain"}).text
            assert "of stdout were dropped here]" in text.splitlines()[0]
            newest += kept.endswith(b"the last line\n")
        assert newest, "the newest lines are the ones that stay"


async def test_after_the_retention_record_and_logs_are_gone_and_the_id_is_unknown(
    make_node: MakeNode,
) -> None:
    node: Node = await trio.to_thread.run_sync(
        lambda: make_node(name="brief", environ={"MILL_LOG_RETENTION_SECS": "2"})
    )
    async with Client(node.address, node.token) as client:
        record = await run(client, "sh", "-c", "echo hello")
        lasting = await spawn(client, "sleep", "30")
        assert node.api("GET", f"/v1/logs/{record.id}").text == "hello\n"
        with trio.fail_after(WITHIN_S):
            while node.api("GET", f"/v1/tasks/{record.id}").status_code != 404:  # noqa: ASYNC110 -- no event tells it
                await trio.sleep(0.05)
        assert record.times.finished is not None
        assert time.time() - record.times.finished >= 2
        assert node.api("GET", f"/v1/logs/{record.id}").status_code == 404
        assert not (node.data_dir / "logs" / record.id).exists()
        assert [task["id"] for task in node.records()] == [lasting]
