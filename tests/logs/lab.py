"""What the log tests share: writing into a task's FIFOs, reading its log to the end, finding the holder, counting leaks."""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import trio

from mill.logs import store
from mill.logs.frames import LogChunk, LogRequest
from mill.logs.pipes import TaskPipes
from mill.logs.store import HeldPipes, Logs

POLL_S = 0.002
SOON_S = 10.0
"""For what should take milliseconds, on a loaded machine."""


@asynccontextmanager
async def running(data_dir: Path) -> AsyncIterator[Logs]:
    """A log store on *data_dir* for as long as the block lasts."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(store.serve, data_dir, time.time)
        nursery.cancel_scope.cancel()


async def held(logs: Logs, task_id: str) -> HeldPipes:
    """Opened, and safe from milld's end: as a task finds it when it starts."""
    opened = await logs.open(task_id)
    await opened.wait_held()
    return opened


async def wait_until(condition: Callable[[], Any], within_s: float = SOON_S) -> Any:
    """The condition's first true value."""
    with trio.fail_after(within_s):
        while not (value := condition()):  # noqa: ASYNC110 -- what tests wait for rings no bell
            await trio.sleep(POLL_S)
    return value


async def read(logs: Logs, task_id: str, **asked: Any) -> list[LogChunk]:
    with trio.fail_after(SOON_S):
        async with aclosing(logs.read(task_id, LogRequest(**asked))) as chunks:
            return [chunk async for chunk in chunks]


async def text(logs: Logs, task_id: str, **asked: Any) -> bytes:
    return b"".join([chunk.data for chunk in await read(logs, task_id, **asked)])


async def text_once(logs: Logs, task_id: str, expected: bytes, **asked: Any) -> None:
    """Wait until that much was captured, and see that it is just that."""
    with trio.fail_after(SOON_S):
        while len(  # noqa: ASYNC110 -- as above
            got := await text(logs, task_id, **asked)
        ) < len(expected):
            await trio.sleep(POLL_S)
    assert got == expected


class Writer:
    """A task's side of its FIFOs; as *shim*, both ends of them. Writes raise `BlockingIOError` rather than wait."""

    def __init__(self, pipes: TaskPipes, *, shim: bool = False) -> None:
        flags = os.O_NONBLOCK | (os.O_RDWR if shim else os.O_WRONLY)
        self.stdout = os.open(pipes.stdout, flags)
        self.stderr = os.open(pipes.stderr, flags)
        self._open = [self.stdout, self.stderr]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The task has ended."""
        for fd in self._open:
            os.close(fd)
        self._open = []

    def out(self, data: bytes) -> None:
        assert os.write(self.stdout, data) == len(data)

    def err(self, data: bytes) -> None:
        assert os.write(self.stderr, data) == len(data)


def holders(data_dir: Path) -> list[int]:
    """Process ids of the holders of *data_dir*."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.endswith(b"/holder.py") for word in words) and str(data_dir).encode() in words:
                found.append(int(process.name))
    return found


def open_count() -> int:
    """How many file descriptors this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def open_files(under: Path) -> list[str]:
    """This process' open files below *under*."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except OSError:
            continue
        if target.startswith(str(under)):
            found.append(target)
    return found


def capture_threads() -> int:
    """How many threads are capturing; one of trio's pool takes its own name back once the work is done."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return names.count(store.CAPTURE_NAME)
