"""`mill doctor`: has milld's side look at this host, in a process of its own, and shows what it found.

The command line imports nothing of the daemon; what comes back is JSON.
"""

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mill.cli import failure, render
from mill.cli.milld_options import arguments, milld_options
from mill.cli.output import show_json

HELP = """Look for what is wrong with this host, and say what to do about it.

    For a node, running or not: containerd and the OCI runtime, control groups, overlayfs, the kernel, ports, the
    mesh and what firewalls do to it, the data directory and its disk, the clock, limits, and what other nodes have
    left. It changes nothing. Give it the options that milld gets, or run it where MILL_... are set as for milld.

    \b
    mill doctor
    mill doctor --config /etc/mill.toml
    mill doctor --json | jq '.findings[] | select(.level != "ok")'

    Exit codes: 0 tasks can run here (there may be warnings), 1 something would stop them, 2 bad input.
    """

_START = "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module('mill.daemon.doctor', run_name='__main__')"
"""With -P, so that nothing in the current directory is taken for Mill: root runs this. Ours is found where we were."""
LOOK_S = 90.0
"""For all of it; each check has less of its own. Usual: 1.5 s."""
NO_NODE = 3
"""What it exits with where the daemon's packages are missing."""
LEAST_WIDTH = 60
_COLORS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command(help=HELP)
@milld_options
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(*, config_file: Path | None, as_json: bool, **said: str | None) -> None:
    report = _look(arguments(said, config_file))
    if as_json:
        show_json(report)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for line in lines(report, None if width is None else max(width, LEAST_WIDTH)):
            click.echo(line)
    if report["problems"]:
        raise click.exceptions.Exit(failure.EXIT_FAILED)


def _look(options: list[str]) -> Any:
    """What the daemon's side says, or a line why it cannot."""
    command = [sys.executable, "-P", "-c", _START, str(Path(__file__).parents[2]), "--json", *options]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LOOK_S)  # noqa: S603 -- ourselves
    except subprocess.TimeoutExpired:
        raise _stopped(f"nothing was found out within {LOOK_S:g} s: something hangs, see dmesg") from None
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode == NO_NODE:
        raise _stopped(f"doctor is for the machine that milld runs on: {last}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise _stopped(f"the look at this host failed: {last}") from None


def _stopped(text: str) -> click.exceptions.Exit:
    failure.say(text)
    return click.exceptions.Exit(failure.EXIT_FAILED)


def lines(report: Any, width: int | None) -> Iterator[str]:
    """A line for each finding, those of what to do below it, and a sum. Without *width* nothing is wrapped, for grep."""
    inner = max((len(one["check"]) for one in report["findings"]), default=0)
    for one in report["findings"]:
        level = one["level"]
        head = f"{click.style(f'{level:7}', fg=_COLORS.get(level))}  {one['check']:{inner}}  "
        indent = 7 + 2 + inner + 2
        first, *rest = _wrapped(one["found"], width, indent)
        yield head + first
        for text in rest:
            yield " " * indent + text
        commands = False
        for advice in one["advice"]:
            first, *rest = _wrapped(advice, None if commands else width, indent + 3)
            yield " " * indent + ("$  " if commands else "-> ") + first
            for text in rest:
                yield " " * (indent + 3) + text
            commands = commands or advice.endswith(
                ":"
            )  # what follows is to be copied, so it is not cut into lines
    yield ""
    yield _sum(report["problems"], report["warnings"])


def _wrapped(text: str, width: int | None, indent: int) -> list[str]:
    text = render.printable(text)
    if width is None:
        return [text]
    return textwrap.wrap(text, width - indent, break_long_words=False, break_on_hyphens=False) or [""]


def _sum(problems: int, warnings: int) -> str:
    counted = f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    return f"{counted}: {'tasks cannot run here as it is' if problems else 'tasks can run here'}"
