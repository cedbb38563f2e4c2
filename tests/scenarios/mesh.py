"""Tasks with networks of their own, by the API of a blocking `Node`: what the scenarios of the mesh are told in.

A task that runs need not listen yet: `fetch` and `page` wait for it.
"""

import time
from collections.abc import Callable
from typing import Any

import httpx

from tests import leaks
from tests.node import Node

SMALL = {"image": "busybox", "cpu": 0.05, "memory": "16M", "grace": 0.2, "network": "mesh"}
WITHIN_S = 20.0
SERVE = "mkdir -p /w && echo hello > /w/index.html && exec httpd -f -p 8080 -h /w"


def spawn(node: Node, script: str, **fields: Any) -> str:
    body = {**SMALL, "args": ["sh", "-c", script], **fields}
    answer = node.api("POST", "/v1/tasks/spawn", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def running(node: Node, script: str, **fields: Any) -> dict[str, Any]:
    """The record of a task that runs."""
    task_id = spawn(node, script, **fields)
    record: dict[str, Any] = node.api(
        "GET", f"/v1/tasks/{task_id}", params={"wait": "running", "timeout": WITHIN_S}
    ).json()
    assert record["status"] == "running", record
    return record


def said(node: Node, script: str, **fields: Any) -> str:
    """What a script printed, once it has ended well."""
    task_id = spawn(node, script, **fields)
    params = {"wait": "terminal", "timeout": 60}
    record = node.api("GET", f"/v1/tasks/{task_id}", params=params).json()
    text = node.api("GET", f"/v1/tasks/{task_id}/logs", headers={"Accept": "text/plain"}).text
    assert record["exit_code"] == 0, (record, text)
    return text


def fetch(address: str, tries: int = 100) -> str:
    """For a script: an HTTP page of a task that may need a moment to listen."""
    return f"for i in $(seq {tries}); do wget -qO- http://{address}/ && exit 0; sleep 0.1; done; exit 1"


def until(condition: Callable[[], bool], within_s: float = WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        leaks._pause()


def page(port: int, host: str = "127.0.0.1") -> str:
    """By a port of the host, once the task listens."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            return httpx.get(f"http://{host}:{port}/", timeout=5, verify=False, trust_env=False).text
        except httpx.TransportError:
            assert time.monotonic() < deadline
            leaks._pause()
