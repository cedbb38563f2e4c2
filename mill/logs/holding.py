"""milld's side of the holder: finds it or starts it, stays connected, and tells it again what to hold if it was killed.

`store` owns one `HolderLink`. Requests wait while the holder is being found; one that gets no answer in time goes
unheard, with a warning: without a holder logs are taken all the same, and only a dead milld at a task's end loses some.
"""

import errno
import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import structlog
import trio

from mill.errors import SetupError
from mill.logs import holder as script
from mill.units import KIB

START_S = 30.0
"""From starting the holder to its socket. Usual: 0.03 s; an emulated machine takes three hundred times as long."""
ANSWER_S = 2.0
"""For one answer. Usual: 0.1 ms; the holder does nothing that waits."""
RETRY_S = 1.0
"""Between two tries to start a holder that would not start."""
RECEIVE_BYTES = 64 * KIB

log = structlog.get_logger()


class HolderFault(Exception):
    """The holder does not start or does not answer. Never leaves this package but as a `SetupError`."""


@attrs.define(eq=False)
class _Request:
    answered: trio.Event = attrs.field(factory=trio.Event)
    answer: str | None = None


class HolderLink:
    """Asks the holder; `serve` keeps the connection."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._wanted: set[str] = set()
        self._stream: trio.SocketStream | None = None
        self._connected = trio.Event()
        self._started = False
        self._sending = trio.Lock()
        self._open: deque[_Request] = deque()

    async def hold(self, task_id: str) -> bool:
        """Whether the holder now has that task's FIFOs open; if not, it will when it can."""
        self._wanted.add(task_id)
        return await self._ask(f"hold {task_id}", task=task_id) == "ok"

    async def release(self, task_id: str) -> None:
        """Have it close that task's FIFOs, if it holds them."""
        self._wanted.discard(task_id)
        await self._ask(f"release {task_id}", task=task_id)

    async def held(self) -> frozenset[str]:
        """What it holds, be it from an earlier milld."""
        return frozenset((await self._ask("list") or "ok").split()[1:])

    async def _ask(self, line: str, **about: str) -> str | None:
        """Its answer; None, and a warning, if there is none in time."""
        answer = None
        with trio.move_on_after(ANSWER_S):
            while answer is None:
                await self._connected.wait()
                answer = await self._exchange(line)
        if answer is None or not answer.startswith("ok"):
            why = "no answer" if answer is None else answer.removeprefix("error ")
            log.warning("the log holder did not do as asked", asked=line, why=why, **about)
        return answer

    async def _exchange(self, line: str) -> str | None:
        """Answers come in the order of requests, so each request keeps its place even if nobody waits for it any more."""
        request = _Request()
        async with self._sending:
            if self._stream is None:
                return None
            self._open.append(request)
            # A line sent by half would spoil the next one, so nothing interrupts it; it is short.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + ANSWER_S) as scope:
                try:
                    await self._stream.send_all(f"{line}\n".encode())
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return None
            if scope.cancelled_caught:
                await trio.aclose_forcefully(self._stream)
        await request.answered.wait()
        return request.answer

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Stay connected. Started once the first connection stands; raises `SetupError` if there will be none."""
        try:
            stream = await self._reach()
        except HolderFault as fault:
            raise SetupError(f"the log holder does not start: {fault}") from None
        mute = 0
        while True:
            async with stream:
                self._stream = stream
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._greet, stream, task_status)
                    answers = await self._receive(stream)
                    nursery.cancel_scope.cancel()
            mute = 0 if answers else mute + 1
            if answers and self._wanted:
                log.warning("the log holder is gone; starting another", tasks=len(self._wanted))
            elif mute > 1:  # once is usual: it was just about to end when we connected
                log.warning("the log holder ends before it answers; trying again")
                await trio.sleep(RETRY_S)
            stream = await self._reach_again()

    async def _greet(self, stream: trio.SocketStream, task_status: trio.TaskStatus[None]) -> None:
        with trio.move_on_after(ANSWER_S):  # one that is stuck must not keep milld from starting
            await self._hold_again()
        if self._stream is stream:
            self._connected.set()
        if not self._started:
            self._started = True
            task_status.started()

    async def _hold_again(self) -> None:
        """A new holder holds nothing yet; a running one may have missed a line, or hold what is long gone."""
        for task_id in sorted(self._wanted):
            await self._exchange(f"hold {task_id}")
        for task_id in (await self._exchange("list") or "").split()[1:]:
            if not (self._data_dir / script.FIFOS_NAME / task_id).exists():
                await self._exchange(f"release {task_id}")

    async def _receive(self, stream: trio.SocketStream) -> int:
        """Hand out answers until the connection ends; how many there were."""
        begun = b""
        count = 0
        try:
            while got := await stream.receive_some(RECEIVE_BYTES):
                *lines, begun = (begun + got).split(b"\n")
                for line in lines:
                    request = self._open.popleft()
                    request.answer = line.decode("ascii", "replace")
                    request.answered.set()
                    count += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._stream = None
            self._connected = trio.Event()
            for request in self._open:
                request.answered.set()
            self._open.clear()
        return count

    async def _reach_again(self) -> trio.SocketStream:
        while True:
            try:
                return await self._reach()
            except HolderFault as fault:
                log.warning("the log holder does not start; trying again", why=str(fault))
                await trio.sleep(RETRY_S)

    async def _reach(self) -> trio.SocketStream:
        """A connection to the holder of this data directory, which is started if there is none."""
        try:
            return await _connect(self._data_dir)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ECONNREFUSED}:
                raise HolderFault(f"{script.SOCKET_NAME}: {error.strerror}") from None
        await _start(self._data_dir)
        try:
            return await _connect(self._data_dir)
        except OSError as error:
            raise HolderFault(f"it ended at once ({error.strerror})") from None


async def _start(data_dir: Path) -> None:
    """Start the holder; it leaves this process once its socket is there."""
    command = [sys.executable, "-I", "-S", script.__file__, str(data_dir)]
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    try:
        with trio.fail_after(START_S):
            done = await trio.run_process(
                command, env=kept, stdin=b"", capture_stderr=True, check=False, start_new_session=True
            )
    except OSError as error:
        raise HolderFault(f"{sys.executable}: {error.strerror}") from None
    except trio.TooSlowError:
        raise HolderFault(f"it was not ready within {START_S:g} s") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").splitlines() or [f"exit code {done.returncode}"]
        raise HolderFault(lines[-1])


async def _connect(data_dir: Path) -> trio.SocketStream:
    stream_socket = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        with _short_path(data_dir) as directory:
            await stream_socket.connect(f"{directory}/{script.SOCKET_NAME}")
    except BaseException:
        stream_socket.close()
        raise
    return trio.SocketStream(stream_socket)


@contextmanager
def _short_path(directory: Path) -> Iterator[str]:
    """Another name of *directory* that fits into the 107 bytes of a unix socket's address (unix(7))."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
