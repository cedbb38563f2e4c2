"""`mill events`: every change of a task's state, one line each."""

import json

import click
import trio

from mill.cli import connect, failure, render
from mill.cli.output import Sinks
from mill.client import Client, EventGap, EventStream
from mill.client.events import Event, event_json

HELP = """Show every change of a task's state as it happens, also over restarts of milld: time, id, status, and why it ended.

    It begins now, or with --after behind a change that was seen before, whose id --json shows. Filters given together
    must all fit.

    \b
    mill events
    mill events --template coop-agent --status failed --json
    """


@click.command(help=HELP)
@click.option("--task", metavar="ID", help="Of this task.")
@click.option("--template", help="Of tasks from this template.")
@click.option(
    "-l",
    "--label",
    metavar="KEY=VALUE",
    multiple=True,
    help="Of tasks with this label; given twice, with both.",
)
@click.option(
    "-s",
    "--status",
    multiple=True,
    help="Changes to this status: pulling, starting, running, stopped, failed.",
)
@click.option("--after", metavar="ID", help="Begin behind the change with this id.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as the API sends them.")
def events(
    *,
    task: str | None,
    template: str | None,
    label: tuple[str, ...],
    status: tuple[str, ...],
    after: str | None,
    as_json: bool,
) -> None:
    async def show(mill: Client) -> None:
        task_id = None if task is None else (await connect.find(mill, task)).id
        found = mill.events(task=task_id, template=template, label=label, status=status, after=after)
        await _copy(found, as_json=as_json)

    connect.run(show)


async def _copy(events: EventStream, *, as_json: bool) -> None:
    """As `copying.copy` does with logs."""
    sinks = Sinks()
    async with events:
        while batch := await events.next_batch():
            pieces = [_json(event) if as_json else _line(event) for event in batch]
            await trio.to_thread.run_sync(sinks.write, pieces, abandon_on_cancel=True)


def _json(event: Event) -> tuple[str, bytes]:
    return "stdout", json.dumps(event_json(event)).encode() + b"\n"


def _line(event: Event) -> tuple[str, bytes]:
    if isinstance(event, EventGap):
        return "stderr", f"mill: {failure.one_line(event.message)}\n".encode()
    doubt = "  (partial: others may know better)" if event.partial else ""
    return "stdout", (render.event_line(event.time, event.task) + doubt + "\n").encode()
