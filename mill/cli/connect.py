"""How a command runs its asynchronous part: under trio, with one client. Called by every command."""

from collections.abc import Awaitable, Callable

import click
import trio

from mill.cli import failure
from mill.client import Client, NotFound
from mill.errors import FieldError
from mill.model import Record

LISTED = 5
"""How many of the ids that a prefix fits are named."""
PAGE_SIZE = 1000
PARTIAL = "this answer is partial: the node is not in touch with a majority of its cluster, and others may know better"


def run(command: Callable[[Client], Awaitable[int | None]]) -> None:
    """Runs *command*; what it returns is the exit code."""

    async def with_client() -> int | None:
        async with Client() as mill:
            try:
                return await command(mill)
            finally:
                if mill.partial:
                    failure.say(PARTIAL)

    try:
        code = trio.run(with_client, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseExceptionGroup as group:
        raise failure.leaf(group) from group
    if code:
        raise click.exceptions.Exit(code)


async def find(mill: Client, task_id: str) -> Record:
    """The record of that id, or of the only one that begins so."""
    try:
        return await mill.get(task_id)
    except NotFound:
        pages = mill.tasks(all=True, page_size=PAGE_SIZE)
        fitting = [record async for record in pages if record.id.startswith(task_id)]
        if not fitting:
            raise
    if len(fitting) > 1:
        names = ", ".join(record.id for record in fitting[:LISTED])
        more = ", ..." if len(fitting) > LISTED else ""
        raise FieldError("", f"{task_id!r} fits {len(fitting)} tasks: {names}{more}; write more of the id")
    return fitting[0]
