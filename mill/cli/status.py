"""`mill status`: the node at a glance."""

from collections.abc import Callable

import click

from mill.cli import connect, render
from mill.cli.output import show_json, show_pairs
from mill.client import Client, calls


@click.command(
    help="Show how the node is doing: its version, containerd, what is reserved, and how many tasks it has."
)
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
@click.pass_obj
def status(now: Callable[[], float], *, as_json: bool) -> None:
    async def show(mill: Client) -> None:
        answer = await mill.ask(calls.status())
        if as_json:
            show_json(answer)
        else:
            show_pairs(render.status_pairs(mill.decode(calls.status(), answer), now()))

    connect.run(show)
