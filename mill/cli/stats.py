"""`mill stats`: one sample of what running tasks use."""

from typing import Any

import click
import trio

from mill.cli import complete, connect, render
from mill.cli.output import show_json, show_table
from mill.client import Client, Conflict, NotFound, calls

HELP = """Show what running tasks use, once: of the given ones, or of all.

    CPU is in cores over the last second, MEM without page cache that can go; the rest are totals since the start.

    \b
    mill stats
    mill stats coop-agent-x7k2
    """

AT_ONCE = 16
"""Questions under way at the same time."""


@click.command(help=HELP)
@click.argument("ids", metavar="[ID...]", nargs=-1, shell_complete=complete.live_tasks)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the API's answer, of several tasks one after another."
)
def stats(*, ids: tuple[str, ...], as_json: bool) -> None:
    async def show(mill: Client) -> None:
        if ids:
            answers = [await mill.ask(calls.stats((await connect.find(mill, one)).id)) for one in ids]
        else:
            answers = await _of_all(mill)
        if as_json:
            for answer in answers:
                show_json(answer)
            return
        samples = [mill.decode(calls.stats(answer["id"]), answer) for answer in answers]
        show_table(render.STATS_COLUMNS, [render.stats_row(sample) for sample in samples])

    connect.run(show)


async def _of_all(mill: Client) -> list[Any]:
    """Of every running task, in the order of `ps`; one that ends meanwhile is left out."""
    ids = [record.id async for record in mill.tasks(status="running")]
    answers: dict[str, Any] = {}
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def ask(task_id: str) -> None:
        async with limiter:
            try:
                answers[task_id] = await mill.ask(calls.stats(task_id))
            except (Conflict, NotFound):
                return

    async with trio.open_nursery() as nursery:
        for task_id in ids:
            nursery.start_soon(ask, task_id)
    return [answers[task_id] for task_id in ids if task_id in answers]
