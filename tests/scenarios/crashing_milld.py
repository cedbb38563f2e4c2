"""milld that kills itself with SIGKILL at a named point of a task's life: ``python -m tests.scenarios.crashing_milld milld's options``.

Which point, and for tasks of which name, is said by ``CRASH_AT`` and ``CRASH_NAME``. It is milld as it is; a few of its
methods are wrapped, so that nothing of this is in milld. `POINTS` are in the order of a life.
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from operator import attrgetter
from typing import Any

from mill.containerd import container, content, rpcs, runtime, session
from mill.containerd.spares import Spares
from mill.daemon import main
from mill.logs.store import Logs
from mill.model import Task
from mill.store import Store
from mill.units import MIB

Method = Callable[..., Awaitable[Any]]
Concerns = Callable[..., bool]

_name = os.environ.get("CRASH_NAME", "")


def mine(task_id: str) -> bool:
    return task_id.startswith(f"{_name}-")


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(owner: Any, method: str, concerns: Concerns) -> None:
    """Crash once *method* of *owner* has done its work for a task that is meant."""
    plain: Method = getattr(owner, method)

    async def crashing(*args: Any, **options: Any) -> Any:
        result = await plain(*args, **options)
        if concerns(*args):
            crash()
        return result

    setattr(owner, method, crashing)


def before(owner: Any, method: str, concerns: Concerns) -> None:
    plain: Method = getattr(owner, method)

    async def crashing(*args: Any, **options: Any) -> Any:
        if concerns(*args):
            crash()
        return await plain(*args, **options)

    setattr(owner, method, crashing)


def after_call(rpc: rpcs.Rpc[Any, Any], task: str) -> None:
    """Once containerd has answered that method's call about a task of ours, whose id is the request's *task*."""
    after(session.Session, "call", _about(rpc, task))


def _about(rpc: rpcs.Rpc[Any, Any], task: str) -> Concerns:
    return lambda _, asked, request: asked.path == rpc.path and mine(attrgetter(task)(request))


def after_put(condition: Callable[[Task], bool]) -> None:
    """Once a row of ours that fulfils *condition* is committed."""
    after(Store, "put", lambda _, task: mine(task.record.id) and condition(task))


POINTS: Mapping[str, Callable[[], None]] = {
    "after the record": lambda: after(Store, "insert", lambda _, task: mine(task.record.id)),
    "mid-pull": lambda: before(content, "_commit", lambda _, blob, __: blob.size > MIB),
    "after the snapshot": lambda: after(runtime.Runtime, "_prepare", lambda _, task_id, *__: mine(task_id)),
    "after the container": lambda: after_call(rpcs.CONTAINERS_CREATE, "container.id"),
    "after Create": lambda: after_call(rpcs.TASKS_CREATE, "container_id"),
    "after Start, before running is recorded": lambda: after_call(rpcs.TASKS_START, "container_id"),
    "after a layer is made ahead": lambda: after(Spares, "_make", lambda _, key, __: key[0] == _name),
    "after running is recorded": lambda: after_put(lambda task: task.record.status == "running"),
    "while running": lambda: None,  # the test kills it
    "after the kill wish is recorded": lambda: after_put(lambda task: task.owned.kill is not None),
    "after the signal": lambda: after_call(rpcs.TASKS_KILL, "container_id"),
    "after the exit, before it is recorded": lambda: after(
        container.TaskContainer, "wait", lambda self: mine(self.id)
    ),
    "after the exit is recorded": lambda: after_put(lambda task: task.owned.ending is not None),
    "before Delete": lambda: before(session.Session, "call", _about(rpcs.TASKS_DELETE, "container_id")),
    "after Delete": lambda: after_call(rpcs.TASKS_DELETE, "container_id"),
    "after the logs are drained": lambda: after(Logs, "drain", lambda _, task_id: mine(task_id)),
    "after the end is recorded": lambda: after_put(lambda task: task.record.status.terminal),
    "after the container's record is removed": lambda: after_call(rpcs.CONTAINERS_DELETE, "id"),
    "after the snapshot is removed": lambda: after_call(rpcs.SNAPSHOTS_REMOVE, "key"),
}
"""What each point wraps."""


if __name__ == "__main__":
    if point := os.environ.get("CRASH_AT"):
        POINTS[point]()
    sys.argv[0] = "milld"
    main.main()
