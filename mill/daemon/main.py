"""``milld``: options, the data directory's lock, logging, signals; then one node until SIGTERM.

Whatever keeps it from starting is one line on stderr and exit code 2.
"""

import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
import structlog
import trio
from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer

from mill import __version__
from mill.config import SECRET_VARIABLE, SHUTDOWN_S, Config, load
from mill.daemon import datadir
from mill.daemon.options import setup_options
from mill.errors import SetupError

if TYPE_CHECKING:
    from mill.daemon.node import Ready

BAD_SETUP = 2
SPARE_S = 0.7
"""Between the end of every polite deadline and the process' own: together below the 5 s that are promised."""
SWITCH_INTERVAL_S = 0.001
"""How long a thread may keep the interpreter while the loop waits for it. Python's 5 ms add up: two threads make 10."""

log = structlog.get_logger()

Serve = Callable[..., Awaitable[None]]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@setup_options
@click.version_option(__version__, prog_name="milld")
def milld(config_file: Path | None, **flags: str | None) -> None:
    """Run Mill's daemon on this node until SIGTERM. Containers are left running: the next milld goes on with them."""
    _set_up_logging()
    code = 0
    try:
        config = load(flags, os.environ, config_file)
        os.environ.pop(SECRET_VARIABLE, None)  # what milld starts need not know it
        _check_root()
        serve_node = _imported()
        with datadir.claimed(config.data_dir):
            _raise_open_files()
            trio.run(_run, config, serve_node)
    except* SetupError as errors:
        click.echo(f"milld: {_first(errors)}", err=True)
        code = BAD_SETUP
    except* Exception as errors:  # the top supervisor of the process
        log.critical("internal error; tasks run on", exc_info=errors)
        code = 1
    if code:
        sys.exit(code)  # not within `except*`, which would wrap it


def _check_root() -> None:
    if os.geteuid() != 0:
        raise SetupError("must run as root: it makes cgroups, mounts and containers")


def _imported() -> Serve:
    """The node: a second's work, of which a bad option has no need, nor of a collector that would find nothing."""
    gc.disable()
    from mill.daemon.node import serve_node  # noqa: PLC0415

    gc.enable()
    return serve_node


async def _run(config: Config, serve_node: Serve) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(_wait_signal, signals, stop)
            ready: Ready = await nursery.start(
                partial(_serve, serve_node, config, stop.wait, nursery.cancel_scope)
            )
            settle()
            said = f"node={ready.node} api={ready.api} containerd={ready.containerd}"
            click.echo(f"milld ready: {said} dns={ready.dns}")
            sys.stdout.flush()
            _notify(
                f"READY=1\nSTATUS=node {ready.node}, API at {ready.api}, containerd at {ready.containerd}"
            )


def settle() -> None:
    """Once all that lives as long as milld is there: how the interpreter is to treat it from now on."""
    gc.collect()
    gc.freeze()  # need not be looked at again: a full collection takes 15 ms
    sys.setswitchinterval(SWITCH_INTERVAL_S)


async def _serve(
    serve_node: Serve,
    config: Config,
    stopped: Callable[[], Awaitable[None]],
    scope: trio.CancelScope,
    *,
    task_status: "trio.TaskStatus[Ready]",
) -> None:
    await serve_node(config, stopped, task_status=task_status)
    scope.cancel()


async def _wait_signal(signals: Any, stop: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
    """The first signal asks for the end; the process' own deadline starts with it."""
    task_status.started()
    async for number in signals:
        if not stop.is_set():
            log.info("stopping; tasks run on", signal=signal.Signals(number).name)
            _notify("STOPPING=1\nSTATUS=stopping; tasks run on")
            signal.signal(signal.SIGALRM, _give_up)
            signal.setitimer(signal.ITIMER_REAL, SHUTDOWN_S + SPARE_S)
        stop.set()


def _give_up(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- the signal module's form
    """Something hangs. Nothing is lost by ending here: every state is committed, every container has its shim."""
    os.write(2, b"milld: something did not stop in time; leaving it\n")
    os._exit(0)


def _set_up_logging() -> None:
    """Structured lines on stderr: for people at a terminal, JSON otherwise.

    An exception's traceback never shows local variables: they may hold a token, or what a task has in its environment.
    """
    logging.getLogger("trio.serve_listeners").disabled = True  # out of descriptors it goes on by itself
    terminal = sys.stderr.isatty()
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    plain = ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    last: Any = console if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [plain]),
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _raise_open_files() -> None:
    """Up to the hard limit, which needs no privilege: a running task keeps some descriptors open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _notify(state: str) -> None:
    """sd_notify(3), if systemd started us."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
            except OSError as error:
                log.warning("systemd could not be told", state=state, why=error.strerror)


def _first(errors: BaseExceptionGroup[SetupError]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main() -> None:
    """The console script."""
    try:
        sys.exit(milld.main(prog_name="milld", standalone_mode=False))
    except click.ClickException as error:
        click.echo(f"milld: {error.format_message().removesuffix('.')} (see milld --help)", err=True)
        sys.exit(BAD_SETUP)
    except click.Abort:
        sys.exit(1)


if __name__ == "__main__":
    main()
