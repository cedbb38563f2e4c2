"""`mill ps`: the table of tasks."""

from collections.abc import Callable
from typing import Any

import click

from mill.cli import complete, connect, render
from mill.cli.output import show_json, show_table
from mill.client import Client, calls
from mill.model import Status

HELP = """List tasks, newest first: those that have not ended, or with -a all.

    CPU is in cores over the last second, MEM what is in use now, ELAPSED the time since the task runs.

    \b
    mill ps
    mill ps -a --status failed --label team=blue
    mill kill $(mill ps -q --template coop-agent)
    """

PAGE_SIZE = 500


@click.command(help=HELP)
@click.option("-a", "--all", "every", is_flag=True, help="Also those that have ended.")
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
@click.option(
    "-s",
    "--status",
    multiple=True,
    shell_complete=complete.one_of(*Status),
    help="Of this status: pulling, starting, running, stopped, failed.",
)
@click.option(
    "-l", "--label", metavar="KEY=VALUE", multiple=True, help="With this label; given twice, with both."
)
@click.option("--node", help="On this node.", shell_complete=complete.nodes)
@click.option("--template", help="From this template.", shell_complete=complete.templates)
@click.option("-n", "--last", type=click.IntRange(min=1), help="At most this many, ended or not.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
@click.pass_obj
def ps(now: Callable[[], float], /, *, quiet: bool, as_json: bool, last: int | None, **said: Any) -> None:
    filters = {key: value for key, value in said.items() if key != "every"}
    filters["all"] = said["every"] or last is not None

    async def show(mill: Client) -> None:
        answers = await fetch(mill, {**filters, "usage": not quiet}, last)
        if as_json:
            show_json({"tasks": answers, "next": None, **({"partial": True} if mill.partial else {})})
            return
        records = mill.decode(calls.tasks(), {"tasks": answers}).tasks
        if quiet:
            for record in records:
                click.echo(render.printable(record.id))
        else:
            show_table(render.TASK_COLUMNS, [render.task_row(record, now()) for record in records])

    connect.run(show)


async def fetch(mill: Client, filters: dict[str, Any], most: int | None) -> list[Any]:
    """The records of all pages as they came."""
    answers: list[Any] = []
    after: str | None = None
    while most is None or len(answers) < most:
        limit = PAGE_SIZE if most is None else min(PAGE_SIZE, most - len(answers))
        page = await mill.ask(calls.tasks(**filters, limit=limit, after=after))
        answers += page["tasks"]
        after = page.get("next")
        if after is None:
            break
    return answers
