"""`mill tokens`: who may use the API, and how far."""

import click

from mill.cli import complete, connect, render
from mill.cli.output import show_json, show_pairs, show_table
from mill.client import Client, calls
from mill.model import Scope

GROUP_HELP = """List, make and revoke tokens of the API; without a command, list them.

    Each scope covers those before it: 'read' looks, 'spawn' starts and ends tasks too, 'admin' may do everything.
    """
CREATE_HELP = """Make a token, and print it: it is told this once.

    \b
    mill tokens create --scope spawn --expires 30d --name ci
    MILL_TOKEN=$(mill tokens create --scope read -q) mill ps
    """


@click.group(help=GROUP_HELP, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
@click.pass_context
def tokens(ctx: click.Context, *, as_json: bool) -> None:
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_tokens, as_json=as_json)


@tokens.command("ls", help="List tokens; what opens anything is not shown.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
@click.pass_context
def list_tokens(ctx: click.Context, *, as_json: bool) -> None:
    async def show(mill: Client) -> None:
        answer = await mill.ask(calls.tokens())
        if as_json:
            show_json(answer)
            return
        found = mill.decode(calls.tokens(), answer)
        show_table(render.TOKEN_COLUMNS, [render.token_row(one, ctx.obj()) for one in found])

    connect.run(show)


@tokens.command("create", help=CREATE_HELP)
@click.option(
    "--scope",
    required=True,
    metavar="SCOPE",
    help="read, spawn or admin.",
    shell_complete=complete.one_of(*Scope),
)
@click.option("--name", metavar="NAME", help="Whose it is, for people; by default its id.")
@click.option("--expires", metavar="TIME", help="How long it is good: 12h, 30d (default: for ever).")
@click.option("-q", "--quiet", is_flag=True, help="Print the token alone.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def create_token(*, scope: str, name: str | None, expires: str | None, quiet: bool, as_json: bool) -> None:
    call = calls.create_token(calls.token_request(scope, name, expires))

    async def create(mill: Client) -> None:
        answer = await mill.ask(call)
        made = mill.decode(call, answer)
        if as_json:
            show_json(answer)
        elif quiet:
            click.echo(made.token)
        else:
            pairs = [("id", made.view.id), ("name", made.view.name), ("scope", str(made.view.scope))]
            show_pairs([(key, render.printable(value)) for key, value in (*pairs, ("token", made.token))])

    connect.run(create)


@tokens.command("rm", help="Revoke tokens.")
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete.tokens)
@click.option("--json", "as_json", is_flag=True, help="Print the ids as JSON.")
def remove_tokens(*, ids: tuple[str, ...], as_json: bool) -> None:
    async def remove(mill: Client) -> None:
        for token_id in ids:
            await mill.delete_token(token_id)
            if not as_json:
                click.echo(f"{render.printable(token_id)} revoked")
        if as_json:
            show_json({"revoked": list(ids)})

    connect.run(remove)
