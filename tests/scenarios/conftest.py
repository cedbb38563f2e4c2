"""What whole-node scenarios share: a client of the shared node, registries, and a follow that stays silent for 70 s."""

import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import attrs
import httpx
import pytest

from mill.client import Client
from tests import registry as real
from tests.node import ROOT, Node
from tests.scenarios.bad_registry import BadRegistry, bad_registry

SILENT_S = 70


@pytest.fixture
async def client(node: Node) -> AsyncIterator[Client]:
    async with Client(node.address, node.token) as client:
        yield client


@pytest.fixture(scope="session")
def registry() -> Iterator[real.Registry]:
    with real.running() as registry:
        yield registry


@pytest.fixture(scope="session")
def private_registry() -> Iterator[real.Registry]:
    with real.running(private=True) as registry:
        yield registry


@pytest.fixture
def bad() -> Iterator[BadRegistry]:
    with bad_registry() as registry:
        yield registry


@pytest.fixture(scope="session")
def busybox_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fleet loads."""
    archive = tmp_path_factory.mktemp("images") / "busybox.tar"
    subprocess.run(
        [sys.executable, ROOT / "examples/busybox_image.py", archive], check=True, capture_output=True
    )
    return archive


@attrs.define
class Silence:
    """One follow of a task that says nothing for `SILENT_S` and then one line; read by a thread while other tests run."""

    thread: threading.Thread
    lines: list[str] = attrs.field(factory=list)
    took_s: float = 0.0
    error: str = ""


def _listen(node: Node, silence: Silence) -> None:
    body = {
        "image": "busybox",
        "name": "silent",
        "args": ["sh", "-c", f"sleep {SILENT_S}; echo at last"],
        "memory": "32M",
    }
    began = time.monotonic()
    try:
        task_id = node.api("POST", "/v1/tasks/spawn", json=body).json()["id"]
        url = f"{node.address}/v1/tasks/{task_id}/logs?follow=true"
        headers = {"Authorization": f"Bearer {node.token}", "Accept": "application/x-ndjson"}
        with httpx.stream("GET", url, headers=headers, timeout=httpx.Timeout(10, read=None)) as answer:
            silence.lines.extend(answer.iter_lines())
    except httpx.HTTPError as error:
        silence.error = repr(error)
    silence.took_s = time.monotonic() - began


@pytest.fixture(scope="session")
def silence(node: Node) -> Silence:
    silence = Silence(threading.Thread(daemon=True))
    silence.thread = threading.Thread(target=_listen, args=(node, silence), daemon=True)
    silence.thread.start()
    return silence


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The silent follow begins before everything else and is looked at last: its 70 s cost nothing."""
    items.sort(key=lambda item: {"begins": 0, "is_over": 2}.get(item.name.rpartition("silent_follow_")[2], 1))
