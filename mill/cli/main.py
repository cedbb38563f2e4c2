"""`mill`: the table of commands, and the one place where errors become a line and an exit code. Entry point of the distribution.

Commands are imported when they are used: `mill --help` loads none of them.
"""

import errno
import importlib
import os
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any, TextIO

import click
from click.shell_completion import CompletionItem

from mill.cli import failure

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
COMPLETE_VAR = "_MILL_COMPLETE"
"""Where the scripts of `mill completion` tell that a shell is asking; click derives the name from the program's."""

COMMANDS: Mapping[str, tuple[str, str]] = {
    "spawn": ("mill.cli.spawn:spawn", "Start a task and return at once."),
    "run": ("mill.cli.run:run", "Start a task, show its output, exit with its code."),
    "ps": ("mill.cli.ps:ps", "List tasks."),
    "inspect": ("mill.cli.inspect:inspect", "Show all there is to know about tasks."),
    "logs": ("mill.cli.logs:logs", "Show what a task wrote."),
    "wait": ("mill.cli.wait:wait", "Wait for tasks to end, exit with their code."),
    "kill": ("mill.cli.kill:kill", "End tasks."),
    "stats": ("mill.cli.stats:stats", "Show what running tasks use."),
    "events": ("mill.cli.events:events", "Show every change of a task's state as it happens."),
    "templates": ("mill.cli.templates:templates", "List, show and remove templates."),
    "apply": ("mill.cli.apply:apply", "Make templates out of a TOML file."),
    "images": ("mill.cli.images:images", "List, pull, load and remove images."),
    "tokens": ("mill.cli.tokens:tokens", "List, make and revoke tokens of the API."),
    "nodes": ("mill.cli.nodes:nodes", "List nodes, and drain one."),
    "status": ("mill.cli.status:status", "Show how the node is doing."),
    "doctor": ("mill.cli.doctor:doctor", "Find what is wrong with this host, and say what to do."),
    "systemd-unit": ("mill.cli.systemd_unit:systemd_unit", "Print a systemd unit for milld."),
    "completion": ("mill.cli.completion:completion", "Print the script that completes mill in a shell."),
}
"""Every command: where it is, and its line in the help."""

HELP = """Run short-lived containers with milld.

    \b
    mill spawn coop-agent --env SESSION_ID=abc123
    mill run --image registry.example.com/myapp:v3 --memory 2G -- --check
    mill ps
    mill logs -f coop-agent-x7k2

    milld is found at MILL_ADDRESS (default: this machine's, port 4400) with the token in MILL_TOKEN; on milld's own
    node both are found without being set. A task's id may be shortened as long as it fits only one. Exit codes: 0 done,
    1 failed, 2 bad input; `run` and `wait` exit with the task's own.
"""


class Commands(click.Group):
    """The group whose commands are imported on first use, and whose every failure is one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 -- as above
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.exceptions.NoSuchCommand(args[0], possibilities=list(COMMANDS), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 -- as above
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem[str]"]:
        """Commands by the table, so that none is imported for a list of them."""
        fitting = [
            CompletionItem(name, help=line)
            for name, (_, line) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*fitting, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:  # this and the next taken here: click itself would make them plain failures
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            _silence(sys.stdout)
            raise click.exceptions.Exit(EXIT_BROKEN_PIPE) from None
        return result

    def main(self, *args: Any, **extra: Any) -> Any:
        """Ends the process, as click's own does when it stands alone."""
        code = self._guarded(*args, **{"prog_name": "mill", **extra, "standalone_mode": False})
        try:
            sys.stdout.flush()
        except OSError:  # told already; the interpreter would try again and change the exit code
            _silence(sys.stdout)
        sys.exit(code)

    def _guarded(self, *args: Any, **extra: Any) -> int:
        """The exit code, with at most one line on stderr and never a traceback (but with MILL_DEBUG=1)."""
        try:
            code = super().main(*args, **extra)
        except click.Abort:
            return EXIT_INTERRUPTED
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return failure.EXIT_USAGE
        except Exception as error:  # noqa: BLE001 -- the command's top: whatever it is becomes a line
            if os.environ.get("MILL_DEBUG"):
                traceback.print_exc()
            text, code = failure.told(error)
            if text:
                failure.say(text)
        return code if isinstance(code, int) else 0


def _silence(stream: TextIO) -> None:
    """The interpreter flushes at its exit: let that go nowhere, where the reader has left or the disk is full."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError as error:
        if error.errno != errno.EBADF:
            raise


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 -- click's signature
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 -- 20 ms for one option

        try:
            click.echo(f"mill {version('milld')}")
        except PackageNotFoundError:
            click.echo("mill (not installed: run from its sources)")
        ctx.exit()


@click.group(
    "mill",
    cls=Commands,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    ctx.obj = ctx.obj or time.time  # the clock, the only one that commands read


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a name that the terminal cannot show is no reason to fail
    if COMPLETE_VAR in os.environ:  # a shell asks what fits behind its cursor
        importlib.import_module("mill.cli.completion").register()
    cli.main()


if __name__ == "__main__":
    main()
