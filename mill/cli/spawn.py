"""`mill spawn`: starts a task and prints where it is."""

import os
import sys
from typing import Any

import click
import trio

from mill.cli import connect, ends, failure, progress
from mill.cli.output import show_json, show_pairs
from mill.cli.render import printable, published
from mill.cli.spec_options import SpecCommand, spawn_call, spec_options
from mill.client import Client, Spawned, calls
from mill.errors import MillError
from mill.model import Status

HELP = """Start a task and return at once.

    TASK is a template's name; options win over what it says. Without TASK, --image says what to run. What follows
    '--' replaces the image's arguments (CMD). An image that is not there is pulled after the answer: 'mill ps' shows
    the task as pulling; 'mill logs -f', 'mill wait' and 'mill inspect' tell how it goes on. With --wait the pull is
    shown, and the exit code is 0 once the task runs or has ended well, else as of 'mill wait'; Ctrl-C leaves it alone.

    \b
    mill spawn coop-agent --env SESSION_ID=abc123
    mill spawn --image registry.example.com/myapp:v3 --cpu 1 --memory 2G --timeout 30m -- --once
    """


@click.command(cls=SpecCommand, help=HELP)
@spec_options
@click.option(
    "--wait", "attend", is_flag=True, help="Show the pull, and return once the task runs or has ended."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the API's answer; with --wait the record at last."
)
def spawn(task: str | None, *, attend: bool, as_json: bool, **said: Any) -> None:
    call = spawn_call(task, said, os.environ)
    watched: str | None = None

    async def ask(mill: Client) -> int:
        nonlocal watched
        answer = await mill.ask(call)
        spawned = mill.decode(call, answer)
        if not (attend and as_json):
            _show(spawned, answer, as_json=as_json)
        if not attend:
            return 0
        watched = spawned.id
        return await _attend(mill, spawned, as_json=as_json)

    try:
        connect.run(ask)
    except KeyboardInterrupt:
        if watched is not None:
            failure.say(f"stopped watching {watched}, which goes on; see 'mill ps'")
        raise
    except MillError as error:
        if watched is None:
            raise
        failure.say(f"lost sight of {watched}, which may still run: {failure.told(error)[0]}")
        raise click.exceptions.Exit(failure.EXIT_FAILED) from None


def _show(spawned: Spawned, answer: Any, *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
        return
    pairs = [("id", spawned.id), ("address", spawned.address), ("status", str(spawned.status))]
    if spawned.publish:
        pairs.append(("published", ", ".join(published(one) for one in spawned.publish)))
    show_pairs([(key, printable(value)) for key, value in pairs])


async def _attend(mill: Client, spawned: Spawned, *, as_json: bool) -> int:
    """Until the task runs or has ended; the exit code."""
    sys.stdout.flush()  # a script that reads the id need not wait with us
    if spawned.status is Status.PULLING and not as_json:
        with progress.shown(trio.current_time) as view:
            await progress.watch(mill, spawned.id, view)
    call = calls.task(spawned.id)
    await mill.wait(spawned.id, "running")
    answer = await mill.ask(call)
    record = mill.decode(call, answer)
    if as_json:
        show_json(answer)
    else:
        failure.say(f"task {ends.sentence(record)}")
    return ends.exit_code(record)
