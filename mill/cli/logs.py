"""`mill logs`: what a task wrote, as it wrote it."""

from collections.abc import Callable

import click

from mill.cli import complete, connect, copying
from mill.client import Client
from mill.convert import format_time, parse_time
from mill.units import parse_duration

HELP = """Show what a task wrote, its stdout on stdout and its stderr on stderr.

    --since and --until take a time such as 2026-01-02T03:04:05Z or how long ago: 90s, 10m, 2h.

    \b
    mill logs -f coop-agent-x7k2
    mill logs --tail 100 -t --stream stderr coop-agent-x7k2
    """


@click.command(help=HELP)
@click.argument("task_id", metavar="ID", shell_complete=complete.tasks)
@click.option(
    "-f", "--follow", is_flag=True, help="Go on until the task has ended, also over restarts of milld."
)
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="LINES", help="Only the last so many.")
@click.option("--since", metavar="TIME", help="Only what was written after it.")
@click.option("--until", metavar="TIME", help="Only what was written before it.")
@click.option("--stream", type=click.Choice(["stdout", "stderr"]), help="Only this one.")
@click.option("-t", "--timestamps", is_flag=True, help="Each line after its time.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, all on stdout.")
@click.pass_obj
def logs(
    now: Callable[[], float],
    *,
    task_id: str,
    follow: bool,
    tail: int | None,
    since: str | None,
    until: str | None,
    stream: str | None,
    timestamps: bool,
    as_json: bool,
) -> None:
    style = copying.Json() if as_json else copying.Stamped() if timestamps else copying.Plain()
    begin, end = _moment("--since", since, now), _moment("--until", until, now)

    async def show(mill: Client) -> None:
        record = await connect.find(mill, task_id)
        log = mill.logs(record.id, follow=follow, tail=tail, since=begin, until=end, stream=stream)
        await copying.copy(log, style)

    connect.run(show)


def _moment(option: str, text: str | None, now: Callable[[], float]) -> str | None:
    """RFC 3339, from that or from how long ago."""
    if text is None:
        return None
    try:
        return format_time(now() - parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        return format_time(parse_time(text))
    except (ValueError, OverflowError):
        raise click.UsageError(
            f"{option}: {text!r} is neither a time such as 2026-01-02T03:04:05Z nor a duration such as 10m"
        ) from None
