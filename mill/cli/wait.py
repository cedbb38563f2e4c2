"""`mill wait`: until tasks run or have ended."""

import click

from mill.cli import complete, connect, ends, failure
from mill.cli.output import show_json
from mill.client import Client, calls
from mill.client.calls import WaitFor
from mill.units import parse_duration

HELP = f"""Wait for tasks to end, print how each ended, and exit with the code of the first that did not end well.

    \b
    mill wait coop-agent-x7k2
    mill wait --for running --timeout 30s coop-agent-x7k2

    Exit codes (with --for running: 0 once all run or have run):

    {ends.CODES_HELP}

    \b
    Without an end: 1 when --timeout is over or milld cannot be reached, 2 for bad input.
    """


@click.command(help=HELP)
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete.live_tasks)
@click.option(
    "--for", "until", type=click.Choice(["terminal", "running"]), default="terminal", show_default=True
)
@click.option("--timeout", metavar="TIME", help="Give up after 30s, 10m, 2h.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer for each.")
def wait(*, ids: tuple[str, ...], until: WaitFor, timeout: str | None, as_json: bool) -> None:
    timeout_s = seconds("--timeout", timeout)

    async def show(mill: Client) -> int:
        code = 0
        for task_id in ids:
            this = await _wait_one(mill, task_id, until, timeout_s, as_json=as_json)
            code = code or this
        return code

    connect.run(show)


async def _wait_one(
    mill: Client, task_id: str, until: WaitFor, timeout_s: float | None, *, as_json: bool
) -> int:
    found = await connect.find(mill, task_id)
    record = await mill.wait(found.id, until, timeout=timeout_s)
    if as_json:
        show_json(await mill.ask(calls.task(record.id)))
    else:
        click.echo(failure.one_line(ends.sentence(record)))
    if record.status.terminal:
        return ends.exit_code(record) if until == "terminal" or record.times.started is None else 0
    if until == "running" and record.status == "running":
        return 0
    failure.say(f"{record.id} is still {record.status} after {timeout_s:g} s")
    return failure.EXIT_FAILED


def seconds(option: str, text: str | None) -> float | None:
    """Of a duration as people write it."""
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None
