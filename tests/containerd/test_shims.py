"""Shims found by their command lines, and ended only when containerd does not do it."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from mill.containerd import shims

SOCKET = "/tmp/mill-nowhere/containerd.sock"


@contextmanager
def process(name: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """One that sleeps, whose command line begins with *name*."""
    script = ["-c", "sleep 60; :", *args]
    with subprocess.Popen([name, *script], executable="/bin/sh", start_new_session=True) as started:
        try:
            yield started
        finally:
            os.killpg(started.pid, signal.SIGKILL)


def shim_of(task_id: str, socket: str = SOCKET, namespace: str = "mill") -> list[str]:
    return ["-debug", "-namespace", namespace, "-id", task_id, "-address", socket]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shims, "UNDO_S", 0.3)


def test_only_the_shim_of_that_task_in_that_namespace_of_that_containerd_is_found() -> None:
    with ExitStack() as running:
        path = "/usr/bin/containerd-shim-runc-v2"
        ours = running.enter_context(process(path, *shim_of("a-1")))
        for args in (
            shim_of("a-12"),
            shim_of("a-1", namespace="moby"),
            shim_of("a-1", socket="/run/other.sock"),
        ):
            running.enter_context(process(path, *args))
        running.enter_context(process("grep", *shim_of("a-1")))
        until = time.monotonic() + 10
        while (found := shims.find(SOCKET, "mill", "a-1")) != [ours.pid] and time.monotonic() < until:
            time.sleep(0.01)  # a shell that forks looks like two for a moment
        assert found == [ours.pid]
        assert shims.find(SOCKET, "mill", "b-1") == []


async def test_a_shim_that_stays_is_ended(quick: None) -> None:
    del quick
    with process("/usr/bin/containerd-shim-runc-v2", *shim_of("a-1")) as lost:
        await shims.wait_none(SOCKET, "mill", "a-1")
        assert lost.wait(5) == -signal.SIGKILL


async def test_one_that_ends_by_itself_is_waited_for() -> None:
    with process("/usr/bin/containerd-shim-runc-v2", *shim_of("a-1")) as ending:
        threading.Timer(0.3, ending.terminate).start()
        threading.Thread(target=ending.wait).start()  # whoever is not waited for stays in /proc
        began = time.monotonic()
        await shims.wait_none(SOCKET, "mill", "a-1")
        assert 0.25 < time.monotonic() - began < shims.UNDO_S
        assert ending.wait(5) == -signal.SIGTERM
