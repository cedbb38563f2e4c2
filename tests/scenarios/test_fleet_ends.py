"""What real nodes tell of tasks that have just ended: for certain as soon as others know of it, and with a doubt where nobody else can."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.node import TERMINAL
from tests.pace import stretched
from tests.scenarios.fleet import Placed, everywhere, fleet
from tests.scenarios.weather import cut, end_all

Fleet = list[Placed]
EXIT = 3


@pytest.fixture(scope="module")
def three(busybox_archive: Path) -> Iterator[Fleet]:
    with fleet(3, busybox_archive) as placed:
        yield placed
        end_all(placed)


def ended(record: dict[str, Any]) -> bool:
    """As it did in truth."""
    return (record["status"], record["exit_code"]) == ("failed", EXIT)


def test_an_end_is_told_for_certain_at_once_through_any_node(three: Fleet) -> None:
    took = []
    for through in three * 4:
        task_id = three[0].spawn(f"exit {EXIT}", network="none")
        said = through.get(f"/v1/tasks/{task_id}", wait="terminal", timeout=20)
        began = time.monotonic()
        again = three[0].get(f"/v1/tasks/{task_id}")
        page = three[0].get("/v1/tasks", all="true", limit=5)
        took.append(time.monotonic() - began)
        assert ended(said), said
        assert ended(again), again
        assert not any("partial" in one for one in (said, again, page))
    print(f"an end, and a page with it: median {sorted(took)[len(took) // 2] * 1000:.0f} ms")


def _event(one: Placed, task_id: str) -> dict[str, Any]:
    """The event of its end as that node tells it."""
    headers = {"Authorization": f"Bearer {one.node.token}", "Last-Event-ID": "none-0"}
    with (
        httpx.Client(verify=False, trust_env=False, timeout=20) as client,
        client.stream("GET", f"{one.node.address}/v1/events", headers=headers) as answer,
    ):
        for line in answer.iter_lines():
            said = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if said.get("task", {}).get("id") == task_id and said["task"]["status"] in TERMINAL:
                found: dict[str, Any] = said
                return found
    raise AssertionError("no event of its end")


def test_an_end_that_nobody_else_has_heard_of_is_told_with_a_doubt_from_the_first_answer_on(
    three: Fleet,
) -> None:
    """The node that was cut off does not know it for two seconds; when it is heard again all is certain."""
    lone, rest = three[0], three[1:]
    doomed = lone.running(f"sleep 1; exit {EXIT}", network="none")
    with cut([lone], rest):
        began = time.monotonic()
        record = lone.get(f"/v1/tasks/{doomed}")
        while not ended(record):
            assert time.monotonic() - began < stretched(10), record
            record = lone.get(f"/v1/tasks/{doomed}")
        known_s, is_known = time.monotonic() - began, lone.get("/v1/status")["partial"]
        told = {
            "get": record,
            "wait": lone.get(f"/v1/tasks/{doomed}", wait="terminal", timeout=5),
            "kill": lone.api("DELETE", f"/v1/tasks/{doomed}").json(),
            "list": lone.get("/v1/tasks", all="true"),
            "event": lone.host.do(_event, lone, doomed),
        }
        print(f"it ended, and was told, {known_s:.1f} s after the cut; the node knew of that: {is_known}")
        assert {what: said.get("partial") for what, said in told.items()} == dict.fromkeys(told, True)
    everywhere(three, lambda it: ended(said := it.get(f"/v1/tasks/{doomed}")) and "partial" not in said)
    assert "partial" not in lone.host.do(_event, lone, doomed)
