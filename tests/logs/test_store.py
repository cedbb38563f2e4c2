"""The log store with real FIFOs and the real holder: capture, follow, drain, faults of the disk."""

import os
import resource
import stat
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from mill.errors import NoSpace, NotFound, SetupError, Unavailable
from mill.logs import segments, store
from mill.logs.frames import LogRequest
from mill.logs.store import Logs
from tests.logs.lab import (
    SOON_S,
    Writer,
    capture_threads,
    open_files,
    read,
    running,
    text,
    text_once,
    wait_until,
)


async def test_what_is_written_is_read_in_order_and_only_by_its_owner(logs: Logs, data_dir: Path) -> None:
    pipes = await logs.open("a-1")
    assert stat.S_ISFIFO(pipes.stdout.stat().st_mode)
    assert stat.S_IMODE(pipes.stdout.stat().st_mode) == 0o600
    with Writer(pipes) as task:
        for i in range(20):
            task.out(b"out %d\n" % i)
            await text_once(
                logs, "a-1", b"".join(b"out %d\nerr %d\n" % (j, j) for j in range(i)) + b"out %d\n" % i
            )
            task.err(b"err %d\n" % i)
            await text_once(logs, "a-1", b"".join(b"out %d\nerr %d\n" % (j, j) for j in range(i + 1)))
    await logs.drain("a-1")
    chunks = await read(logs, "a-1", follow=True)
    assert [chunk.stream for chunk in chunks] == ["stdout", "stderr"] * 20
    assert [chunk.time for chunk in chunks] == sorted(chunk.time for chunk in chunks)
    assert abs(chunks[-1].time - time.time()) < SOON_S
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (data_dir / "logs" / "a-1").glob("std*")}
    assert modes == {0o600}


async def test_a_follower_sees_a_partial_line_at_once_and_ends_when_the_task_is_drained(logs: Logs) -> None:
    with Writer(await logs.open("a-1")) as task, trio.fail_after(SOON_S):
        async with aclosing(logs.read("a-1", LogRequest(follow=True))) as chunks:
            task.out(b"progress...")
            assert (await anext(chunks)).data == b"progress..."
            task.err(b"\xff\x00\n")
            assert (await anext(chunks)).data == b"\xff\x00\n"
            task.out(b" done\n")
            last = await anext(chunks)
            assert (last.data, last.cursor) == (b" done\n", "17-3")
            task.close()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(logs.drain, "a-1")
                with pytest.raises(StopAsyncIteration):
                    await anext(chunks)
    assert [chunk.data for chunk in await read(logs, "a-1", stream="stdout")] == [b"progress... done\n"]


async def test_followers_come_before_the_task_and_leave_when_its_log_is_removed(logs: Logs) -> None:
    seen: dict[str, bytes] = {}

    async def follow(name: str, task_id: str) -> None:
        seen[name] = await text(logs, task_id, follow=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, "early", "a-1")
        nursery.start_soon(follow, "of none", "a-2")
        nursery.start_soon(follow, "of removed", "a-3")
        await trio.testing.wait_all_tasks_blocked()
        with Writer(await logs.open("a-1")) as task:
            task.out(b"hello\n")
        await logs.open("a-3")
        await logs.remove("a-3")
        await logs.drain("a-1")
        await logs.drain("a-2")
    assert seen == {"early": b"hello\n", "of none": b"", "of removed": b""}


async def test_a_follow_with_until_ends_when_that_time_has_come(logs: Logs) -> None:
    with Writer(await logs.open("a-1")) as task:
        task.out(b"in time\n")
        await text_once(logs, "a-1", b"in time\n")
        until = time.time() + 0.05
        assert await text(logs, "a-1", follow=True, until=until) == b"in time\n"
        assert time.time() >= until


async def test_a_slow_follower_neither_blocks_the_task_nor_misses_a_byte(logs: Logs) -> None:
    """It takes one chunk, sleeps while 30 MB are written, and then gets all the rest from the files."""
    pipes = await logs.open("a-1")
    line = b"0123456789" * 9 + b"012345678\n"
    async with aclosing(logs.read("a-1", LogRequest(follow=True))) as chunks:
        with trio.fail_after(SOON_S), pipes.stdout.open("wb", buffering=0) as task:
            task.write(b"first\n")
            assert (await anext(chunks)).data == b"first\n"
            for _ in range(300):
                await trio.to_thread.run_sync(task.write, line * 1000)
        await logs.drain("a-1")
        assert len(list(logs._logs.glob("a-1/stdout.*.log"))) > 30 * 10**6 // segments.SEGMENT_BYTES
        assert len(open_files(logs._logs)) <= 4
        count = 0
        async for chunk in chunks:
            assert chunk.data.count(line) * len(line) == len(chunk.data)
            count += len(chunk.data)
    assert count == 300 * 1000 * len(line)
    assert await text(logs, "a-1", tail=2) == line * 2


async def test_opening_twice_is_opening_once(logs: Logs) -> None:
    pipes = await logs.open("a-1")
    assert await logs.open("a-1") == pipes
    with Writer(pipes) as task:
        task.out(b"once\n")
        await text_once(logs, "a-1", b"once\n")
    assert len([path for path in open_files(logs._fifos) if path.endswith("stdout")]) == 1


async def test_draining_takes_what_was_written_last_and_may_be_repeated(logs: Logs, data_dir: Path) -> None:
    with Writer(await logs.open("a-1")) as task:
        task.out(b"x" * 60_000)
        task.err(b"last words")
    await logs.drain("a-1")
    await logs.drain("a-1")
    assert not (data_dir / "fifos" / "a-1").exists()
    assert await text(logs, "a-1", follow=True, stream="stdout") == b"x" * 60_000
    assert await text(logs, "a-1", follow=True, stream="stderr") == b"last words"
    assert (logs.budget.output_bytes, logs.budget.lost_bytes) == (60_010, 0)


async def test_all_is_in_the_files_before_the_holder_is_told_to_let_go(
    logs: Logs, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash right after it would lose whatever is still in the FIFO then."""
    release, sizes = logs._holder.release, []

    async def look_and_release(task_id: str) -> None:
        sizes.append(sum(path.stat().st_size for path in (data_dir / "logs" / task_id).glob("*.log")))
        await release(task_id)

    monkeypatch.setattr(logs._holder, "release", look_and_release)
    for i in range(20):
        with Writer(await logs.open(f"a-{i}")) as task:
            task.out(b"x" * 50_000)
        await logs.drain(f"a-{i}")
    assert sizes == [50_000] * 20


async def test_a_task_opened_again_after_its_drain_goes_on_until_the_next(logs: Logs) -> None:
    """As adoption does when milld was killed between the drain and the record."""
    for line in (b"one\n", b"two\n"):
        with Writer(await logs.open("a-1")) as task:
            task.out(line)
            async with aclosing(logs.read("a-1", LogRequest(follow=True, tail=1))) as chunks:
                while (await anext(chunks)).data != line:
                    pass
                with trio.move_on_after(0.02):
                    pytest.fail(f"{await anext(chunks)} came after the last line")
        await logs.drain("a-1")
    assert await text(logs, "a-1", follow=True) == b"one\ntwo\n"


async def test_a_task_that_never_wrote_or_never_started_has_an_empty_log(logs: Logs, data_dir: Path) -> None:
    await logs.open("a-1")
    for task_id in ("a-1", "a-2"):
        with trio.fail_after(store.DRAIN_S / 2):  # nobody has the FIFOs open: no reason to wait
            await logs.drain(task_id)
        assert await read(logs, task_id, follow=True) == []
        assert [path.name for path in (data_dir / "logs" / task_id).iterdir()] == ["end"]


async def test_a_leftover_writer_cannot_hold_up_a_drain(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "DRAIN_S", 0.1)
    with Writer(await logs.open("a-1")) as leftover:
        leftover.out(b"before\n")
        with trio.fail_after(SOON_S):
            await logs.drain("a-1")
        assert await text(logs, "a-1", follow=True) == b"before\n"
        with pytest.raises(BrokenPipeError):
            leftover.out(b"after\n")


async def test_a_drain_whose_time_is_over_still_takes_all_that_can_be_read(
    logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "DRAIN_S", 0.0)
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 512)
    for i in range(5):
        with Writer(await logs.open(f"a-{i}")) as leftover:
            leftover.out(b"x" * 60_000)
            await logs.drain(f"a-{i}")
            assert await text(logs, f"a-{i}", follow=True) == b"x" * 60_000


async def test_a_drain_is_not_interrupted(logs: Logs) -> None:
    with Writer(await logs.open("a-1")) as task:
        task.out(b"whole\n")
    with trio.CancelScope() as scope:
        scope.cancel()
        await logs.drain("a-1")
    assert await text(logs, "a-1", follow=True) == b"whole\n"


async def test_a_drain_that_has_begun_ends_before_the_store_does(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both cancelled at once: the store waits for it, with its holder and its capture."""
    monkeypatch.setattr(store, "DRAIN_S", 0.1)
    async with trio.open_nursery() as nursery:
        logs = await nursery.start(store.serve, data_dir, time.time)
        leftover = Writer(await logs.open("a-1"))
        with leftover:
            leftover.out(b"whole\n")
            nursery.start_soon(logs.drain, "a-1")
            await wait_until(lambda: logs._busy)
            nursery.cancel_scope.cancel()
    assert (data_dir / "logs" / "a-1" / "end").read_text() == "6-0"
    assert not (data_dir / "fifos" / "a-1").exists()


async def test_removing_takes_everything_even_of_a_task_that_still_writes(logs: Logs, data_dir: Path) -> None:
    with Writer(await logs.open("a-1")) as task:
        task.out(b"x\n")
    await logs.remove("a-1")
    await logs.remove("a-1")
    assert list((data_dir / "logs").iterdir()) == []
    assert await read(logs, "a-1") == []


async def test_streams_that_a_task_alternates_between_keep_their_order(logs: Logs) -> None:
    """Faster than entries of one stream are written: the other stream's bytes make one of their own."""

    def taken(expected: bytes) -> bool:
        return sum(source.writer.end for source in logs._live["a-1"].sources) == len(expected)

    with Writer(await logs.open("a-1")) as task:
        expected = b""
        for i in range(60):
            line = b"%d\n" % i
            (task.err if i % 2 else task.out)(line)
            expected += line
            await wait_until(partial(taken, expected))
        await text_once(logs, "a-1", expected)


async def test_ids_that_are_no_ids_reach_no_file(logs: Logs) -> None:
    for task_id in ("", "..", "a/b", "a\0b", "../../etc"):
        with pytest.raises(NotFound):
            await read(logs, task_id)
        with pytest.raises(NotFound):
            await logs.open(task_id)


async def test_idle_tasks_cost_no_wakeup(logs: Logs) -> None:
    for i in range(10):
        await logs.open(f"a-{i}")
    ticks: list[None] = []
    tick = logs._capture._tick

    def counted() -> None:
        ticks.append(tick())

    logs._capture._tick = counted  # type: ignore[method-assign]
    await trio.sleep(0.3)
    assert len(ticks) <= 2
    with Writer(await logs.open("a-0")) as task:
        task.out(b"x")
        await text_once(logs, "a-0", b"x")
    assert ticks


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Longer files fail with EFBIG, much as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_holds_up_its_task_says_so_once_and_loses_nothing(
    logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mill.logs.capture.STALL_S", 0.02)
    data = b"".join(b"%07d\n" % i for i in range(100_000))
    pipes = await logs.open("a-1")
    other = await logs.open("a-2")
    with capture_logs() as said:
        async with trio.open_nursery() as nursery:
            with files_limited_to(200_000):
                nursery.start_soon(trio.to_thread.run_sync, pipes.stdout.write_bytes, data)
                await wait_until(lambda: said)
                with Writer(other) as task:
                    task.out(b"the others go on\n")
                await text_once(logs, "a-2", b"the others go on\n")
                assert len(await text(logs, "a-1")) == 200_000
        await wait_until(lambda: len(said) > 1)
    await logs.drain("a-1")
    assert await text(logs, "a-1", follow=True) == data
    assert [(line["log_level"], line["task"], line["stream"]) for line in said] == [
        ("warning", "a-1", "stdout"),
        ("info", "a-1", "stdout"),
    ]
    assert (logs.budget.output_bytes, logs.budget.lost_bytes) == (len(data) + len("the others go on\n"), 0)


async def test_what_a_full_disk_keeps_from_its_log_up_to_the_end_is_counted(
    logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "DRAIN_S", 0.1)
    with Writer(await logs.open("a-1")) as task, capture_logs(), files_limited_to(10_000):
        task.out(b"x" * 30_000)
        await wait_until(lambda: logs.budget.output_bytes == 10_000)
        task.close()
        await logs.drain("a-1")
    assert await text(logs, "a-1", follow=True) == b"x" * 10_000
    assert (logs.budget.output_bytes, logs.budget.lost_bytes) == (10_000, 20_000)


async def test_an_end_that_a_full_disk_does_not_take_is_left_to_be_tried_again(
    logs: Logs, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with Writer(await logs.open("a-1")) as task:
        task.out(b"x\n")
    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", no_space)
        with pytest.raises(NoSpace, match="No space left on device"):
            await logs.drain("a-1")
    assert (data_dir / "fifos" / "a-1" / "stdout").exists()
    await logs.drain("a-1")
    assert (data_dir / "logs" / "a-1" / "end").read_text() == "2-0"
    assert await text(logs, "a-1", follow=True) == b"x\n"


async def test_after_the_end_of_the_store_nothing_is_opened(data_dir: Path) -> None:
    async with running(data_dir) as logs:
        await wait_until(lambda: capture_threads() == 1)
    with pytest.raises(Unavailable):
        await logs.open("a-1")
    assert capture_threads() == 0


async def test_a_data_directory_that_cannot_be_used_is_one_clear_line(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.RaisesGroup(
        pytest.RaisesExc(SetupError, match=r"cannot keep logs in .*: Not a directory"), flatten_subgroups=True
    ):
        async with running(tmp_path / "file" / "mill"):
            pass
    async with running(data_dir):
        pass


async def test_reading_where_the_kernel_cannot_say_what_is_cached_goes_by_a_thread(
    logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on tmpfs (EOPNOTSUPP), and as when the bytes are not in the page cache (EAGAIN)."""
    expected = b""
    with Writer(await logs.open("a-1")) as task:
        for i in range(5):
            for write in task.out, task.err:
                expected += b"%d\n" % i
                write(b"%d\n" % i)
                await text_once(logs, "a-1", expected)
    real = os.preadv
    refused = []

    def preadv(fd: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            refused.append(fd)
            raise BlockingIOError if len(refused) % 2 else OSError(95, "Operation not supported")
        return real(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", preadv)
    for _ in range(2):
        assert await text(logs, "a-1") == expected
        assert await text(logs, "a-1", tail=3) == expected[-6:]
    assert len(refused) >= 4
