"""No byte lost and none doubled: the capturing process killed at any instant, the holder killed, the task's end in between."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from mill.logs import holding, segments
from mill.logs.index import STREAMS, bases_of, decode, segment_name
from mill.logs.pipes import TaskPipes
from mill.logs.store import Logs
from tests.logs.lab import Writer, held, holders, read, running, text, text_once, wait_until

ROOT = Path(__file__).parents[2]
KILLS = 30
LINES = 150_000
WRITER = """
import os, sys, time
out, err = (os.open(path, os.O_WRONLY) for path in sys.argv[1:3])
for start in range(0, int(sys.argv[3]), 100):
    lines = b"".join(b"%07d\\n" % i for i in range(start, start + 100))
    for fd in (out, err):
        at = 0
        while at < len(lines):
            at += os.write(fd, lines[at:at + 7 * (start % 3 + 1)] if start % 1000 == 0 else lines[at:])
    time.sleep(0.001)
"""
"""Numbered lines on both streams, now and then in pieces that end inside of a line; waits as a task does when the pipe is full."""


FAST_KILLS = 12
FAST_BLOCKS = 80
FAST_BLOCK_LINES = 131_072
FAST_WRITER = """
import os, sys
out = os.open(sys.argv[1], os.O_WRONLY)
block = b"".join(b"%07d\\n" % i for i in range(131072))
for _ in range(int(sys.argv[2])):
    at = 0
    while at < len(block):
        at += os.write(out, block[at:at + 65536])
"""


class Capturing:
    """The process of `capturing.py`: `start` makes it capture, `kill` ends that without a chance to tidy up."""

    def __init__(self, data_dir: Path) -> None:
        command = [sys.executable, "-m", "tests.logs.capturing", str(data_dir)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = 0

    def say(self, expected: str) -> int:
        assert self.process.stdout is not None
        word, pid = self.process.stdout.readline().split()
        assert word == expected
        return int(pid)

    def start(self, task_id: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{task_id}\n")
        self.process.stdin.flush()
        self.pid = self.say("forked")

    def kill(self, *, opened: bool) -> None:
        if opened:
            self.say("open")
        os.kill(self.pid, signal.SIGKILL)
        assert self.process.stdout is not None
        for line in iter(self.process.stdout.readline, ""):
            if line.startswith("ended"):
                break
        self.pid = 0

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.pid:
            self.kill(opened=False)
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
async def capturing(data_dir: Path) -> AsyncIterator[Capturing]:
    process = Capturing(data_dir)
    yield process
    process.close()


@contextmanager
def writing(script: str, *args: object) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-S", "-c", script, *map(str, args)]) as writer:
        try:
            yield writer
        except BaseException:
            writer.kill()
            raise
    assert writer.returncode == 0


def numbered(lines: int) -> bytes:
    return b"".join(b"%07d\n" % i for i in range(lines))


def pipes_of(data_dir: Path, task_id: str) -> TaskPipes:
    directory = data_dir / "fifos" / task_id
    return TaskPipes(directory / "stdout", directory / "stderr")


async def drained(data_dir: Path, task_id: str) -> dict[str, bytes]:
    """The streams as a new store drains and reads them, its index checked on the way."""
    async with running(data_dir) as logs:
        await logs.drain(task_id)
        chunks = await read(logs, task_id, follow=True)
        tail = await text(logs, task_id, stream="stdout", tail=3)
    found: dict[str, bytes] = {
        stream: b"".join(c.data for c in chunks if c.stream == stream) for stream in STREAMS
    }
    assert found["stdout"].endswith(tail)
    assert [chunk.time for chunk in chunks] == sorted(chunk.time for chunk in chunks)
    directory = data_dir / "logs" / task_id
    for stream in STREAMS:
        for base in bases_of(stream, [path.name for path in directory.iterdir()]):
            log, index = (directory / segment_name(stream, base, suffix) for suffix in (".log", ".idx"))
            assert decode(index.read_bytes())[-1].end == base + log.stat().st_size
    return found


async def test_every_line_is_there_once_however_often_the_capture_is_killed(
    data_dir: Path, capturing: Capturing
) -> None:
    """30 kills at random instants while lines come: most after it has opened the task, some while it starts."""
    chance = random.Random(4)
    capturing.start("a-1")
    capturing.kill(opened=True)
    pipes = pipes_of(data_dir, "a-1")
    with writing(WRITER, pipes.stdout, pipes.stderr, LINES) as writer:
        for turn in range(KILLS):
            capturing.start("a-1")
            await trio.sleep(chance.random() * 0.03 if turn % 5 else chance.random() * 0.005)
            capturing.kill(opened=False)
        assert writer.poll() is None
        capturing.start("a-1")
        await trio.to_thread.run_sync(writer.wait)
        capturing.kill(opened=False)
    found = await drained(data_dir, "a-1")
    assert len(list((data_dir / "logs" / "a-1").glob("*.log"))) > 2 * LINES * 8 // segments.SEGMENT_BYTES
    assert found == dict.fromkeys(STREAMS, numbered(LINES))


async def test_a_kill_in_the_midst_of_moving_bytes_loses_and_doubles_none(
    data_dir: Path, capturing: Capturing
) -> None:
    """A writer at full speed, so that the capture is always at it when it dies."""
    capturing.start("a-1")
    capturing.kill(opened=True)
    pipes = pipes_of(data_dir, "a-1")
    chance = random.Random(5)
    with writing(FAST_WRITER, pipes.stdout, FAST_BLOCKS) as writer:
        for _ in range(FAST_KILLS):
            capturing.start("a-1")
            capturing.say("open")
            await trio.sleep(chance.random() * 0.01)
            capturing.kill(opened=False)
        capturing.start("a-1")
        await trio.to_thread.run_sync(writer.wait)
        capturing.kill(opened=False)
    async with running(data_dir) as logs:
        await logs.drain("a-1")
    logs_dir = data_dir / "logs" / "a-1"
    paths = sorted(logs_dir.glob("stdout.*.log"))
    whole = b"".join(path.read_bytes() for path in paths)
    block = numbered(FAST_BLOCK_LINES)
    assert len(whole) == FAST_BLOCKS * len(block)
    assert all(whole.startswith(block, start) for start in range(0, len(whole), len(block)))


async def test_what_a_task_wrote_and_then_ended_while_nobody_read_is_not_lost(
    data_dir: Path, capturing: Capturing
) -> None:
    """The capture is dead, the task has closed its ends: only the holder has the FIFO, with 32 KB in it."""
    capturing.start("a-1")
    capturing.kill(opened=True)
    with Writer(pipes_of(data_dir, "a-1")) as task:
        task.out(numbered(4096))
        task.err(b"bye\n")
    assert holders(data_dir)
    assert await drained(data_dir, "a-1") == {"stdout": numbered(4096), "stderr": b"bye\n"}


async def test_a_restarted_store_goes_on_after_the_last_byte_with_the_same_holder(data_dir: Path) -> None:
    async with running(data_dir) as logs:
        with Writer(await held(logs, "a-1")) as task:
            task.out(b"one\n")
            await text_once(logs, "a-1", b"one\n")
    first = holders(data_dir)
    with Writer(pipes_of(data_dir, "a-1")) as task:
        task.out(b"two\n")
    async with running(data_dir) as logs:
        assert holders(data_dir) == first
        with Writer(await held(logs, "a-1")) as task:
            task.out(b"three\n")
            await text_once(logs, "a-1", b"one\ntwo\nthree\n")
        await logs.drain("a-1")


@pytest.mark.parametrize("marker", ["2-0", None], ids=["with its marker", "without"])
@pytest.mark.parametrize(
    "left", [("stdout", "stderr"), ("stderr",), ()], ids=["both FIFOs", "one FIFO", "none"]
)
async def test_a_drain_that_was_cut_short_is_finished_later(
    data_dir: Path, left: tuple[str], marker: str | None
) -> None:
    """Its steps, in this order: all is read, the marker written, the FIFOs removed."""
    async with running(data_dir) as logs:
        with Writer(await held(logs, "a-1")) as task:
            task.out(b"x\n")
            await text_once(logs, "a-1", b"x\n")
    for name in {"stdout", "stderr"} - set(left):
        (data_dir / "fifos" / "a-1" / name).unlink()
    if not left:
        (data_dir / "fifos" / "a-1").rmdir()
    if marker:
        (data_dir / "logs" / "a-1" / "end").write_text(marker)
    async with running(data_dir) as logs:
        await logs.drain("a-1")
        assert await text(logs, "a-1", follow=True) == b"x\n"
        assert (data_dir / "logs" / "a-1" / "end").read_text() == "2-0"


async def test_a_task_that_was_opened_again_after_its_drain_is_drained_again(data_dir: Path) -> None:
    """Adoption may open what ended; should milld die once more, the old marker must not count."""
    async with running(data_dir) as logs:
        await held(logs, "a-1")
        await logs.drain("a-1")
        await held(logs, "a-1")
    with Writer(pipes_of(data_dir, "a-1")) as task:
        task.out(b"more\n")
    assert (await drained(data_dir, "a-1"))["stdout"] == b"more\n"


async def test_a_holder_that_was_killed_is_replaced_and_holds_again(logs: Logs, data_dir: Path) -> None:
    with capture_logs() as said:
        pipes = await held(logs, "a-1")
        await held(logs, "a-2")
        (first,) = holders(data_dir)
        os.kill(first, signal.SIGKILL)
        await wait_until(lambda: said)
        await wait_until(logs._holder._connected.is_set)
        (second,) = holders(data_dir)
        assert await logs._holder.held() == {"a-1", "a-2"}
        with Writer(pipes) as task:
            task.out(b"after\n")
            await text_once(logs, "a-1", b"after\n")
        await held(logs, "a-3")
        assert holders(data_dir) == [second]
    assert [(line["log_level"], line["event"]) for line in said] == [
        ("warning", "the log holder is gone; starting another")
    ]


async def test_without_a_holder_logs_are_taken_all_the_same(
    logs: Logs, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a FIFO that nobody has open for writing keeps no thread busy, though it counts as hung up."""
    start = holding._start
    allowed = trio.Event()

    async def refuse(data_dir: Path) -> None:
        if not allowed.is_set():
            raise holding.HolderFault("no such program")
        await start(data_dir)

    monkeypatch.setattr(holding, "RETRY_S", 0.01)
    monkeypatch.setattr(holding, "ANSWER_S", 0.05)
    monkeypatch.setattr(holding, "_start", refuse)
    pipes = await held(logs, "a-1")
    with capture_logs() as said:
        for pid in holders(data_dir):
            os.kill(pid, signal.SIGKILL)
        await wait_until(
            lambda: [line for line in said if line["event"].startswith("the log holder does not start")]
        )
        assert await wait_until(lambda: all(source.parked for source in logs._live["a-1"].sources))
        for _ in range(3):
            with Writer(pipes) as task:
                task.out(b"heard\n")
                await wait_until(lambda: logs._live["a-1"].sources[0].writer.end % 6 == 0)
        await text_once(logs, "a-1", b"heard\n" * 3)
        await held(logs, "a-2")
        allowed.set()
        await wait_until(logs._holder._connected.is_set)
        assert await logs._holder.held() == {"a-1", "a-2"}
    assert "did not do as asked" in str([line["event"] for line in said if line.get("task") == "a-2"])


async def test_with_milld_and_holder_both_killed_the_shim_keeps_the_bytes_while_its_task_runs(
    data_dir: Path,
) -> None:
    async with running(data_dir) as logs:
        shim = Writer(await held(logs, "a-1"), shim=True)
    with shim:
        shim.out(b"one\n")
        for pid in holders(data_dir):
            os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: not holders(data_dir))
        shim.out(b"two\n")
        async with running(data_dir) as logs:
            await held(logs, "a-1")
            await text_once(logs, "a-1", b"one\ntwo\n")
    assert (await drained(data_dir, "a-1"))["stdout"] == b"one\ntwo\n"


async def test_a_data_directory_with_a_very_long_name_has_a_holder_too(data_dir: Path) -> None:
    deep = data_dir / ("d" * 200)
    deep.mkdir()
    async with running(deep) as logs:
        await held(logs, "a-1")
        assert await logs._holder.held() == {"a-1"}
        await logs.drain("a-1")
    await wait_until(lambda: not holders(deep))
    for path in sorted(deep.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    deep.rmdir()
    async with running(data_dir):  # what the fixture looks for at the end
        pass
