"""Shims that containerd has lost: found by their command lines, ended by signals. Reads /proc; `runtime` calls it.

A milld that is killed in the middle of Tasks.Create leaves containerd with half a task, which it undoes in its own time
(2 s), mostly; now and then the shim stays, and no call of containerd's reaches it any more.
"""

import os
import signal
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import structlog
import trio

UNDO_S = 3.0
"""For containerd to end such a shim by itself."""
POLL_S = 0.1
_PROC = Path("/proc")

log = structlog.get_logger()


def find(socket: str, namespace: str, task_id: str) -> list[int]:
    """The processes that are this task's shim under that containerd; blocks for a look at every process."""
    wanted = {"-namespace": namespace, "-id": task_id, "-address": socket}
    found = []
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            is_shim = Path(words[0]).name.startswith("containerd-shim")
            if is_shim and wanted.items() <= set(pairwise(words)):
                found.append(int(folder.name))
    return found


async def wait_none(socket: str, namespace: str, task_id: str) -> None:
    """Until the task has no shim, which is ended if containerd does not do it. Only for one that containerd has no task of."""
    pids: list[int] = []
    with trio.move_on_after(UNDO_S):
        while pids := await trio.to_thread.run_sync(find, socket, namespace, task_id):  # noqa: ASYNC110 -- see below
            await trio.sleep(POLL_S)  # a process of somebody else's rings no bell
    for pid in pids:
        log.info("ended a shim that containerd had lost", task=task_id, pid=pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
