"""`mill inspect`: all of a record, for people or as JSON."""

from collections.abc import Callable

import click

from mill.cli import complete, connect, render
from mill.cli.output import show_json, show_pairs, show_timeline
from mill.client import Client, calls

HELP = """Show all there is to know about tasks: the end and its reason, times, use, and what was asked for.

    Of the environment only names are shown: milld keeps the values to itself.

    \b
    mill inspect coop-agent-x7k2
    mill inspect --timeline coop-agent-x7k2
    mill inspect --json coop-agent-x7k2
    """


@click.command(help=HELP)
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete.tasks)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the API's answer, of several ids one after another."
)
@click.option("--timeline", is_flag=True, help="Draw how long each phase took.")
@click.pass_obj
def inspect(now: Callable[[], float], ids: tuple[str, ...], *, as_json: bool, timeline: bool) -> None:
    if as_json and timeline:
        raise click.UsageError("--timeline draws for people: leave it or --json out")

    async def show(mill: Client) -> None:
        for index, task_id in enumerate(ids):
            record = await connect.find(mill, task_id)
            if as_json:
                show_json(await mill.ask(calls.task(record.id)))
                continue
            if index:
                click.echo()
            if timeline:
                show_timeline(record, now())
            else:
                show_pairs(render.record_pairs(record, now()))

    connect.run(show)
