"""`mill templates`: the named drafts that tasks are spawned from. `mill apply` makes them."""

import click

from mill.cli import complete, connect, render, toml
from mill.cli.output import show_json, show_table
from mill.client import Client, calls

GROUP_HELP = """List, show and remove templates; without a command, list them.

    'mill apply -f FILE' makes them, 'mill spawn NAME' starts a task from one.
    """


@click.group(help=GROUP_HELP, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
@click.pass_context
def templates(ctx: click.Context, *, as_json: bool) -> None:
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_templates, as_json=as_json)


@templates.command("ls", help="List templates. Those of source 'config' are from milld's configuration file.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def list_templates(*, as_json: bool) -> None:
    async def show(mill: Client) -> None:
        answer = await mill.ask(calls.templates())
        if as_json:
            show_json(answer)
            return
        found = mill.decode(calls.templates(), answer)
        show_table(render.TEMPLATE_COLUMNS, [render.template_row(one) for one in found])

    connect.run(show)


@templates.command("show", help="Show a template as the TOML that 'mill apply' reads.")
@click.argument("name", shell_complete=complete.templates)
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def show_template(*, name: str, as_json: bool) -> None:
    async def show(mill: Client) -> None:
        call = calls.template(name)
        answer = await mill.ask(call)
        if as_json:
            show_json(answer)
        else:
            found = mill.decode(call, answer)
            click.echo(toml.template(found.name, found.draft))

    connect.run(show)


@templates.command("rm", help="Remove templates. Running tasks do not mind.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete.templates)
@click.option("--json", "as_json", is_flag=True, help="Print the names as JSON.")
def remove_templates(*, names: tuple[str, ...], as_json: bool) -> None:
    async def remove(mill: Client) -> None:
        for name in names:
            await mill.delete_template(name)
            if not as_json:
                click.echo(f"{render.printable(name)} removed")
        if as_json:
            show_json({"removed": list(names)})

    connect.run(remove)
