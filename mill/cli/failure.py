"""Errors as one line and an exit code. Pure but for `say`; called by `main`, and by `run`, whose codes differ."""

import os
import sys
from contextlib import suppress

import click

from mill.errors import CallerError, Conflict, MillError, SetupError

EXIT_FAILED = 1
EXIT_USAGE = 2


def told(error: BaseException) -> tuple[str, int]:
    """What to print (nothing when empty) and the exit code: 2 for input that the caller can mend, 1 for all else."""
    if isinstance(error, click.ClickException):
        return _usage(error), EXIT_USAGE
    if isinstance(error, click.exceptions.Exit):
        return "", error.exit_code
    if isinstance(error, MillError):
        callers = isinstance(error, CallerError | SetupError) and not isinstance(error, Conflict)
        return str(error), EXIT_USAGE if callers else EXIT_FAILED
    if isinstance(error, OSError) and error.errno is not None:
        about = f"{error.filename}: " if error.filename else ""
        return f"{about}{os.strerror(error.errno).lower()}", EXIT_FAILED
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"internal error: {text} (please report; MILL_DEBUG=1 shows where)", EXIT_FAILED


def leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of a nursery's group that matters most: an interrupt, else one that says something, else the first."""
    leaves = [leaf(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    for kind in (KeyboardInterrupt, click.exceptions.Exit, BrokenPipeError, MillError):
        for error in leaves:
            if isinstance(error, kind):
                return error
    return leaves[0]


def say(text: str) -> None:
    """One line of ours on stderr, quietly lost where nobody reads it."""
    with suppress(OSError):  # what it is about may be the output itself
        sys.stdout.flush()
    try:
        sys.stderr.write(f"mill: {one_line(text)}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        pass


def one_line(text: str) -> str:
    """*text* on one line, without control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in " ".join(text.split()))


def _usage(error: click.ClickException) -> str:
    text = error.format_message().rstrip(".").replace("\n", " ").replace(". Did you mean", ": did you mean")
    if text[:2].istitle() or text[:2] in {"A ", "I "}:
        text = text[0].lower() + text[1:]
    if isinstance(error, click.UsageError) and error.ctx is not None and not text.endswith("?"):
        return f"{text}; see '{error.ctx.command_path} --help'"
    return text
