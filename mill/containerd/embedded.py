"""A containerd of Mill's own, under the data directory: started, watched, restarted. Its tasks outlive it and milld.

`serve` is run by the node in embedded mode; `session.serve` then connects to the socket it reports. Nothing here knows
what containerd is used for.

Who runs is read from the socket, not from a file: the kernel names the process that listens on it, and the socket lies
in a directory that only root can enter. So a containerd that a killed milld left behind is found and adopted, and one
that such a milld had just started wins over a second one, which would wait for the first one's database for ever.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import structlog
import trio

from mill.containerd.endpoint import listener_pid
from mill.containerd.place import Place
from mill.containerd.session import probe
from mill.errors import SetupError

SYSTEM_SOCKET = "/run/containerd/containerd.sock"

START_TIMEOUT_S = 30.0
"""How long containerd may take to answer. It takes a quarter of a second; many shims to reconnect make it longer."""

ADOPT_TIMEOUT_S = 10.0
"""How long one that listens already may take; after that it counts as hung and is replaced."""

STOP_TIMEOUT_S = 2.0
"""From SIGTERM to SIGKILL. milld as a whole has five seconds to stop."""

POLL_S = 0.02
"""Between looks at the socket of a containerd that starts."""

BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.1, 5.0
"""Before a restart, doubling from one to the other."""

STEADY_S = 30.0
"""Having run so long, containerd starts again with the first backoff."""

UMASK = 0o022
"""As dockerd's. containerd makes each container's root directory with it: under a milld that was started with 077, a user
other than root could reach nothing in its container."""
OOM_SCORE_ADJ = -500
"""The kernel should take tasks first; without CAP_SYS_RESOURCE this stays as it is."""

log = structlog.get_logger()


@attrs.frozen
class Running:
    """A containerd, ours by birth (`child`) or by adoption. A descriptor names it: pids are used again."""

    pid: int
    pidfd: int
    child: subprocess.Popen[bytes] | None = None

    async def wait(self) -> str:
        """Until it has ended; how, as far as can be told."""
        await trio.lowlevel.wait_readable(self.pidfd)
        if self.child is None:
            return "ended"
        code = self.child.wait()
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL. Not to be interrupted. Shims and their tasks are not touched."""
        with trio.CancelScope(shield=True):
            self._send(signal.SIGTERM)
            self._send(signal.SIGCONT)  # one that was stopped does not hear the first
            with trio.move_on_after(STOP_TIMEOUT_S) as patience:
                await self.wait()
            if patience.cancelled_caught:
                self._send(signal.SIGKILL)
                await self.wait()

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)


@asynccontextmanager
async def _held(running: Running) -> AsyncGenerator[Running]:
    """Ours for the length of the block; it is stopped at the end."""
    try:
        yield running
    finally:
        await running.stop()
        os.close(running.pidfd)


@asynccontextmanager
async def _running(binary: str, place: Place) -> AsyncGenerator[Running]:
    """A containerd that answers, found or started, for the length of the block. SetupError when it does not start."""
    if (found := _listening(place)) is not None:
        async with _held(found):
            fault = await _wait_answering(found, place, within_s=ADOPT_TIMEOUT_S)
            if fault is None:
                log.info("adopted a running containerd", pid=found.pid)
                yield found
                return
            log.warning("a containerd was found that is of no use, replacing it", pid=found.pid, how=fault)
    async with _held(_start(binary, place)) as started:
        fault = await _wait_answering(started, place, within_s=START_TIMEOUT_S)
        if fault is not None:
            raise SetupError(f"containerd {fault} (its log: {place.log})")
        if (found := _listening(place, other_than=started.pid)) is None:
            yield started
            return
    async with _held(found):
        log.info("adopted a running containerd", pid=found.pid)
        yield found


def _listening(place: Place, *, other_than: int = 0) -> Running | None:
    """The containerd that listens on the socket, unless it is the one known."""
    pid = listener_pid(place.socket)
    if pid is None or pid == other_than:
        return None
    try:
        return Running(pid, os.pidfd_open(pid))
    except ProcessLookupError:
        return None


def _start(binary: str, place: Place) -> Running:
    place.rotate_log()
    place.finish_deletions()
    with place.log.open("ab") as output:
        child = subprocess.Popen(  # noqa: S603 -- the containerd of PATH, with our own arguments
            [binary, "--config", str(place.config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C at milld's terminal is not for it
            umask=UMASK,
        )
    with suppress(OSError):
        Path(f"/proc/{child.pid}/oom_score_adj").write_text(str(OOM_SCORE_ADJ))
    try:
        return Running(child.pid, os.pidfd_open(child.pid), child)
    except OSError:
        child.kill()
        child.wait()
        raise


def _environment() -> dict[str, str]:
    """The one of milld, without what is meant for milld alone (the token, systemd's socket)."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MILL_", "NOTIFY_"))}
    return {**ours, "PATH": search_path()}


def search_path() -> str:
    """Shims look for runc on it, which a user's PATH may not reach."""
    return os.pathsep.join(
        filter(None, (os.environ.get("PATH"), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
    )


async def _wait_answering(running: Running, place: Place, *, within_s: float) -> str | None:
    """Wait until it answers on its socket; else what became of it."""
    with trio.move_on_after(within_s):
        while True:
            if listener_pid(place.socket) is not None:
                with suppress(SetupError):
                    await probe(place.socket)
                    return None
            with trio.move_on_after(POLL_S):
                how = await running.wait()
                return f"{how} while starting: {place.last_words()}"
    return f"did not answer within {within_s:.0f} s"


async def serve(data_dir: Path, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
    """Keep a containerd running under *data_dir*; started with its socket's path. SetupError when the first start fails."""
    binary = shutil.which("containerd", path=search_path())
    if binary is None:
        raise SetupError(
            "containerd is not installed: apt-get install containerd (or give --containerd SOCKET)"
        )
    place = Place.under(data_dir)
    place.prepare()
    started = False
    backoff_s = BACKOFF_FIRST_S
    try:
        while True:
            try:
                async with _running(binary, place) as running:
                    if not started:
                        started = True
                        task_status.started(place.socket)
                    with trio.move_on_after(STEADY_S) as steady:
                        how = await running.wait()
                    if steady.cancelled_caught:
                        backoff_s = BACKOFF_FIRST_S
                        how = await running.wait()
            except SetupError as error:
                if not started:
                    raise
                how = str(error)
            except OSError as error:  # no room on the disk, no descriptors, no processes
                how = f"cannot be started: {error.strerror}"
                if not started:
                    raise SetupError(f"containerd {how}") from None
            log.warning("containerd is down, starting it again", how=how, in_s=backoff_s)
            await trio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_MOST_S)
    finally:
        place.remove_sockets()


async def find_system_socket(path: str = SYSTEM_SOCKET) -> str | None:
    """The system's containerd, if there is one that answers."""
    try:
        await probe(path)
    except SetupError:
        return None
    return path
