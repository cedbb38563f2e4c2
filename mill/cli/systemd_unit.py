"""`mill systemd-unit`: a unit for milld on standard output. Pure but for where milld is installed."""

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from mill.cli.milld_options import arguments, milld_options
from mill.config import OPTIONS, load
from mill.errors import SetupError

HELP = """Print a systemd unit that runs milld with the given options, with what it needs explained.

    \b
    mill systemd-unit --data-dir /srv/mill > /etc/systemd/system/milld.service
    systemctl daemon-reload && systemctl enable --now milld
    """

UNIT = """\
# Made by 'mill systemd-unit'; put it at /etc/systemd/system/milld.service, then:
#   systemctl daemon-reload && systemctl enable --now milld

[Unit]
Description=Mill, which runs short-lived containers
Documentation=man:systemd.service(5)
# The network, for what pulls images; containerd, so that --containerd auto finds the system's.
Wants=network-online.target
After=network-online.target containerd.service

[Service]
# milld says when it is ready to take tasks.
Type=notify
ExecStart={command}
# Stopping or restarting milld must not touch tasks: only milld itself is signalled, and
# systemd leaves the control groups of shims and tasks alone.
KillMode=process
Delegate=yes
# A milld that comes back goes on with the tasks that run. Without end: a port or a containerd may come free later.
Restart=on-failure
RestartSec=5
# milld stops within 5 s whatever its clients do.
TimeoutStopSec=15
# About ten descriptors for each running task; tasks themselves get at most what milld has.
LimitNOFILE=1048576
# Shims live in this unit's group, a dozen threads for each task.
TasksMax=infinity
# Out of memory, the kernel should take a task and not milld. Tasks do not inherit it.
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
"""


@click.command("systemd-unit", help=HELP)
@milld_options
def systemd_unit(*, config_file: Path | None, **said: str | None) -> None:
    file = None if config_file is None else config_file.absolute()
    load(said, {}, file)  # says what is wrong now, not when the unit is started
    click.echo(unit([*_milld(), *arguments(_absolute(said), file)]), nl=False)


def unit(command: Iterable[str]) -> str:
    return UNIT.format(command=" ".join(quoted(word) for word in command))


def quoted(word: str) -> str:
    """As systemd.service(5) takes it in a command line: no specifier, no variable, no blank that splits it."""
    word = word.replace("%", "%%").replace("$", "$$")
    if word and not set(word) & set(" \t\"'\\;"):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
    return f'"{escaped}"'


def _absolute(said: dict[str, str | None]) -> dict[str, str | None]:
    """Paths as they are meant here: systemd starts milld in ``/``."""
    parsed = {name: OPTIONS[name][0](value) for name, value in said.items() if value is not None}
    return {
        name: str(parsed[name]) if isinstance(parsed.get(name), Path) else value
        for name, value in said.items()
    }


def _milld() -> list[str]:
    """The absolute path of milld: beside the Python that runs us, else in PATH."""
    beside = Path(sys.executable).parent / "milld"
    if os.access(beside, os.X_OK):
        return [str(beside)]
    found = shutil.which("milld")
    if found is None:
        raise SetupError(f"milld is neither beside {sys.executable} nor in PATH: install it, then try again")
    return [str(Path(found).absolute())]
