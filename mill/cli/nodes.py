"""`mill nodes`: the nodes, draining one before it is taken down, forgetting one, how another one joins, and their secret."""

import math

import click
import trio

from mill.cli import connect, failure, render
from mill.cli.output import show_json, show_table
from mill.cli.wait import seconds
from mill.client import Client, calls
from mill.errors import FieldError
from mill.model import NodeView

GROUP_HELP = """List nodes, drain or forget one, have another one join, change their secret; without a command, list them."""
DRAIN_HELP = """Let no new task in; what runs runs on. It lasts until 'mill nodes undrain', through restarts of milld.

    NODE is a name or an id, and may be left out where there is only one.

    \b
    mill nodes drain --wait --timeout 2h && systemctl stop milld
    """

FORGET_HELP = """Say that a node will not come back: its tasks count as lost, and it has no say any more in what is a majority.

    NODE is a name or an id. A node that answers cannot be forgotten: drain it, and stop its milld.
    """
JOIN_HELP = """Print the line that makes another host a node of this cluster; copy the secret there first, by a way that you trust.

    \b
    scp /var/lib/mill/cluster.secret other: && ssh other "$(mill nodes join-command)"
    """
ROTATE_HELP = """Give all nodes a new secret, while they and their tasks run; tokens stay valid.

    All nodes have to be there. If it was interrupted, say it again, on any node: it goes on. Afterwards a host that is to join
    needs the new cluster.secret, and a client elsewhere that has MILL_CA the new ca.pem.
    """


@click.group(help=GROUP_HELP, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
@click.pass_context
def nodes(ctx: click.Context, *, as_json: bool) -> None:
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_nodes, as_json=as_json)


@nodes.command("ls", help="List nodes.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def list_nodes(*, as_json: bool) -> None:
    async def show(mill: Client) -> None:
        answer = await mill.ask(calls.nodes())
        if as_json:
            show_json(answer)
            return
        found = mill.decode(calls.nodes(), answer)
        show_table(render.NODE_COLUMNS, [render.node_row(one) for one in found])

    connect.run(show)


@nodes.command("drain", help=DRAIN_HELP)
@click.argument("node", required=False)
@click.option("--wait", "waits", is_flag=True, help="Return once none of its tasks is left.")
@click.option("--timeout", metavar="TIME", help="With --wait: give up after 30s, 10m, 2h; it stays drained.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def drain(*, node: str | None, waits: bool, timeout: str | None, as_json: bool) -> None:
    timeout_s = seconds("--timeout", timeout)

    async def drain(mill: Client) -> int:
        view = await mill.drain(await _chosen(mill, node))
        left = await _wait_empty(mill, view, timeout_s) if waits else 0
        if as_json:
            show_json(next(one for one in (await mill.ask(calls.nodes()))["nodes"] if one["id"] == view.id))
        elif not left:
            click.echo(
                f"{render.printable(view.name)} {'has no task left' if waits else 'takes no new task'}"
            )
        if left:
            failure.say(f"{view.name} still has {left} tasks after {timeout_s:g} s; it takes no new one")
        return failure.EXIT_FAILED if left else 0

    connect.run(drain)


@nodes.command("undrain", help="Let new tasks in again.")
@click.argument("node", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def undrain(*, node: str | None, as_json: bool) -> None:
    async def undrain(mill: Client) -> None:
        call = calls.undrain(await _chosen(mill, node))
        answer = await mill.ask(call)
        if as_json:
            show_json(answer)
        else:
            click.echo(f"{render.printable(mill.decode(call, answer).name)} takes new tasks")

    connect.run(undrain)


@nodes.command("forget", help=FORGET_HELP)
@click.argument("node")
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def forget(*, node: str, as_json: bool) -> None:
    async def forget(mill: Client) -> None:
        answer = await mill.ask(calls.forget_node(node))
        if as_json:
            show_json(answer)
        else:
            name = mill.decode(calls.forget_node(node), answer).name
            click.echo(f"{render.printable(name)} is forgotten; its tasks are lost")

    connect.run(forget)


@nodes.command("join-command", help=JOIN_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def join_command(*, as_json: bool) -> None:
    async def show(mill: Client) -> None:
        answer = await mill.ask(calls.join_command())
        if as_json:
            show_json(answer)
            return
        found = mill.decode(calls.join_command(), answer)
        click.echo(render.printable(found.command))
        click.echo(
            f"(cluster.secret is a copy of {render.printable(found.secret_file)} of this node)", err=True
        )

    connect.run(show)


@nodes.command("rotate-secret", help=ROTATE_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def rotate_secret(*, as_json: bool) -> None:
    async def rotate(mill: Client) -> None:
        answer = await mill.ask(calls.rotate_secret())
        if as_json:
            show_json(answer)
            return
        found = mill.decode(calls.rotate_secret(), answer)
        names = ", ".join(map(render.printable, found.nodes))
        click.echo(
            f"secret {render.printable(found.key_id)} is in use on {names}; the one before it is good for nothing"
        )
        click.echo(
            "(cluster.secret and ca.pem have changed on each: a host that is to join needs the one, clients elsewhere the other)",
            err=True,
        )

    connect.run(rotate)


async def _chosen(mill: Client, node: str | None) -> str:
    if node is not None:
        return node
    found = await mill.nodes()
    if len(found) != 1:
        raise FieldError("", f"there are {len(found)} nodes: say which")
    return found[0].id


async def _wait_empty(mill: Client, view: NodeView, timeout_s: float | None) -> int:
    """How many tasks are left on the node once none is, or the time is over."""
    with trio.move_on_after(math.inf if timeout_s is None else timeout_s):
        while left := await mill.list_tasks(node=view.id):
            await mill.wait(left[0].id)
        return 0
    return len(await mill.list_tasks(node=view.id))
