"""`mill kill`: ends tasks, and tells how they ended."""

import click

from mill.checks import parse_signal
from mill.cli import complete, connect, ends, failure
from mill.cli.output import show_json
from mill.cli.wait import seconds
from mill.client import Client, calls

HELP = """End tasks and wait until they have ended. A task that has ended already stays as it is.

    A task gets its stop signal (or --signal) and, if it is still there after its grace time, SIGKILL.

    \b
    mill kill coop-agent-x7k2
    mill kill --grace 0s coop-agent-x7k2
    mill kill $(mill ps -q)
    """

SIGNALS = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "KILL")
"""What a shell offers; every other one is taken too."""


@click.command(help=HELP)
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete.live_tasks)
@click.option(
    "-s",
    "--signal",
    "signal_",
    metavar="SIGNAL",
    shell_complete=complete.one_of(*SIGNALS),
    help="First this one: INT, SIGUSR1, 15.",
)
@click.option(
    "--grace", metavar="TIME", help="How long until SIGKILL (default: the task's own); 0s for at once."
)
@click.option("--no-wait", is_flag=True, help="Do not wait for the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer for each.")
def kill(
    *, ids: tuple[str, ...], signal_: str | None, grace: str | None, no_wait: bool, as_json: bool
) -> None:
    grace_s = seconds("--grace", grace)
    if signal_ is not None:
        try:
            parse_signal(signal_)
        except ValueError as error:
            raise click.UsageError(f"--signal: {error}") from None

    async def end(mill: Client) -> None:
        asked = []
        for task_id in ids:
            found = await connect.find(mill, task_id)
            answer = await mill.ask(calls.kill(found.id, signal=signal_, grace=grace_s))
            asked.append((found.id, answer))
        for full_id, answer in asked:
            call = calls.task(full_id)
            if not no_wait:
                await mill.wait(full_id)
            last = answer if no_wait else await mill.ask(call)
            if as_json:
                show_json(last)
            else:
                record = mill.decode(call, last)
                text = ends.sentence(record)
                click.echo(
                    failure.one_line(text if record.status.terminal else f"{text}, and is being killed")
                )

    connect.run(end)
