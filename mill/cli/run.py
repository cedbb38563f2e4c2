"""`mill run`: starts a task, copies what it writes, and exits with its code. Ctrl-C ends the task, not the command."""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import click
import trio

from mill.cli import connect, copying, ends, failure, progress
from mill.cli.spec_options import SpecCommand, spawn_call, spec_options
from mill.client import Call, Client, Spawned, calls
from mill.errors import MillError, NotFound
from mill.model import Record, Status

HELP = f"""Start a task, show its output, and exit with its code.

    What the task writes to stdout and stderr comes out on stdout and stderr, byte by byte; one line on stderr says why
    it ended unless it exited 0. While its image is pulled, stderr shows how far that is, on a terminal with bars. Ctrl-C
    (or SIGTERM) kills the task and shows its output to the end; a second one kills it at once. Options are those of
    'mill spawn'.

    \b
    mill run coop-agent --env SESSION_ID=abc123
    mill run --image busybox -- sh -c 'echo hello; exit 3'

    Exit codes:

    {ends.CODES_HELP}

    \b
    Before the task has started: 2 for bad input, 125 for any other failure.
    """

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@click.command(cls=SpecCommand, help=HELP)
@spec_options
@click.option("-q", "--quiet", is_flag=True, help="Without the lines that tell the id and the pull.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print log lines and at last the record, one JSON object a line."
)
def run(task: str | None, *, quiet: bool, as_json: bool, **said: Any) -> None:
    call = spawn_call(task, said, os.environ)

    attendance = Attendance(quiet=quiet, as_json=as_json)
    try:
        connect.run(lambda mill: attendance.run(mill, call))
    except MillError as error:
        text, code = failure.told(error)
        if attendance.task_id is not None:
            text, code = f"lost sight of {attendance.task_id}, which may still run: {text}", ends.MILL_FAILED
        failure.say(text)
        raise click.exceptions.Exit(code if code == failure.EXIT_USAGE else ends.MILL_FAILED) from None


class Attendance:
    """One task from its spawn to its end, with the signals that come meanwhile."""

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        self._quiet = quiet
        self._as_json = as_json
        self.task_id: str | None = None
        self._spawned = trio.Event()
        self._view = progress.Unseen()

    async def run(self, mill: Client, call: Call[Spawned]) -> int:
        """The exit code."""
        self._mill = mill
        with trio.open_signal_receiver(*SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed, signals, nursery)
                spawned = await self._spawn(call)
                await self._show_pull(spawned)
                await self._copy(spawned.id)
                end = calls.task(spawned.id)
                await self._mill.wait(spawned.id)
                answer = await self._mill.ask(end)
                nursery.cancel_scope.cancel()
        return self._conclude(self._mill.decode(end, answer), answer)

    async def _spawn(self, call: Call[Spawned]) -> Spawned:
        spawned = await self._mill.do(call)
        self.task_id = spawned.id
        self._spawned.set()
        if not self._quiet:
            failure.say(f"task {spawned.id} at {spawned.address}")
        return spawned

    async def _show_pull(self, spawned: Spawned) -> None:
        """To its end, before a byte of the task is asked for: nothing of it comes between those."""
        if spawned.status is Status.PULLING and not self._quiet and not self._as_json:
            with progress.shown(trio.current_time) as self._view:
                await progress.watch(self._mill, spawned.id, self._view)

    async def _copy(self, task_id: str) -> None:
        style = copying.Json() if self._as_json else copying.Plain()
        try:
            await copying.copy(self._mill.logs(task_id), style)
        except BrokenPipeError:  # nobody reads what the task is for: it ends as a local program would
            with suppress(MillError):
                await self._mill.kill(task_id)
            raise

    def _conclude(self, record: Record, answer: Any) -> int:
        if self._as_json:
            click.echo(json.dumps(answer))
        code = ends.exit_code(record)
        if code:
            failure.say(f"task {ends.sentence(record)}")
        return code

    async def _heed(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        """First the task's own stop signal, then SIGKILL; the third time the user wants out whatever becomes of the task."""
        count = 0
        async for _ in signals:
            count += 1
            if count == 1:
                nursery.start_soon(self._kill, None)
            elif self.task_id is None:
                failure.say("interrupted before milld has answered: the task may run; see 'mill ps'")
                raise click.exceptions.Exit(ends.SIGNAL_BASE + signal.SIGINT)
            elif count == 2:  # noqa: PLR2004 -- the second
                nursery.start_soon(self._kill, 0.0)
            else:
                self._say(f"gave up on {self.task_id}: it may still run; see 'mill ps'")
                raise click.exceptions.Exit(ends.SIGNAL_BASE + signal.SIGINT)

    async def _kill(self, grace_s: float | None) -> None:
        await self._spawned.wait()
        task_id = self.task_id or ""
        if grace_s is None:
            self._say(f"killing {task_id}; Ctrl-C again kills it at once")
        try:
            await self._mill.kill(task_id, grace=grace_s)
        except NotFound:
            pass  # it has ended long ago; the end is on its way
        except MillError as error:
            self._say(f"cannot kill {task_id}: {error}")

    def _say(self, text: str) -> None:
        """Not into the bars of a pull."""
        self._view.hide()
        failure.say(text)
