"""`mill spawn`: starts a task and prints where it is."""

import os
from typing import Any

import click

from mill.cli import connect
from mill.cli.output import show_json, show_pairs
from mill.cli.render import printable
from mill.cli.spec_options import SpecCommand, request_from, spec_options
from mill.client import Client, calls

HELP = """Start a task and return at once.

    TASK is a template's name; options win over what it says. Without TASK, --image says what to run. What follows
    '--' replaces the image's arguments (CMD). An image that is not there is pulled after the answer: 'mill ps' shows
    the task as pulling; 'mill logs -f', 'mill wait' and 'mill inspect' tell how it goes on.

    \b
    mill spawn coop-agent --env SESSION_ID=abc123
    mill spawn --image registry.example.com/myapp:v3 --cpu 1 --memory 2G --timeout 30m -- --once
    """


@click.command(cls=SpecCommand, help=HELP)
@spec_options
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def spawn(task: str | None, *, as_json: bool, **said: Any) -> None:
    call = calls.spawn(request_from(task, said, os.environ))

    async def ask(mill: Client) -> None:
        answer = await mill.ask(call)
        if as_json:
            show_json(answer)
            return
        spawned = mill.decode(call, answer)
        pairs = [("id", spawned.id), ("address", spawned.address), ("status", str(spawned.status))]
        show_pairs([(key, printable(value)) for key, value in pairs])

    connect.run(ask)
