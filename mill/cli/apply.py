"""`mill apply`: makes templates out of a TOML file. All of it is checked before anything is changed."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from mill.cli import complete, connect
from mill.cli.output import show_json
from mill.client import Client, calls
from mill.config import parse_templates
from mill.errors import FieldError
from mill.model import Draft, Template

HELP = """Make templates out of a TOML file, or standard input (-).

    \b
    [task.coop-agent]
    image = "registry.example.com/coop:claude"
    cpu = 2
    memory = "4G"
    timeout = "2h"
    [task.coop-agent.env]
    MODE = "agent"

    \b
    mill apply -f tasks.toml
    mill templates show coop-agent | mill apply -f -

    The whole file is checked before anything is changed; tasks that run are never touched.
    """


@click.command(help=HELP)
@click.option(
    "-f",
    "--file",
    "file",
    metavar="FILE",
    required=True,
    help="What to read; - is standard input.",
    shell_complete=complete.files,
)
@click.option("--json", "as_json", is_flag=True, help="Print the templates as the API answers them.")
def apply(*, file: str, as_json: bool) -> None:
    drafts = parse_templates(_read(file), "standard input" if file == "-" else file)

    async def put(mill: Client) -> None:
        answer = await mill.ask(calls.templates())
        raw = {one["name"]: one for one in answer["templates"]}
        before = {one.name: one for one in mill.decode(calls.templates(), answer)}
        answers = []
        for name, draft in drafts.items():
            verb, said = await _put_one(mill, name, draft, before.get(name))
            answers.append(raw[name] if said is None else said)
            if not as_json:
                click.echo(f"{name} {verb}")
        if as_json:
            show_json({"templates": answers})

    connect.run(put)


async def _put_one(mill: Client, name: str, draft: Draft, before: Template | None) -> tuple[str, Any]:
    """What was done, and the API's answer if it was asked."""
    if before is not None and before.draft == draft:
        return "unchanged", None
    call = calls.put_template(name, draft)
    answer = await mill.ask(call)
    if before is None:
        return "created", answer
    same = mill.decode(call, answer).draft == before.draft
    return ("unchanged" if same else "updated"), answer


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode()
    except OSError as error:
        raise FieldError("", f"cannot read {file}: {os.strerror(error.errno or 0).lower()}") from None
    except UnicodeDecodeError:
        raise FieldError("", f"{file} is not UTF-8 text") from None
