"""milld's own options, as `doctor` and `systemd-unit` take them: both speak of a milld that is started with them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from mill.cli import complete
from mill.config import OPTIONS, REPEATABLE, switch


def milld_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Every option of milld, and ``--config``, passed on as `config_file`."""
    command = click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A TOML file with these options.",
        shell_complete=complete.files,
    )(command)
    for name, (parse, text) in reversed(list(OPTIONS.items())):
        capital = text[0].upper() + text[1:] + "."
        bare: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if parse is switch else {}
        if name in REPEATABLE:
            bare = {"multiple": True, "callback": _joined}
        option = click.option(_flag(name), name, metavar=_META.get(name, "TEXT"), help=capital, **bare)
        command = option(command)
    return command


def _joined(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> str | None:
    return ",".join(values) or None


_META = {
    "data_dir": "DIR",
    "name": "NAME",
    "listen": "IP:PORT",
    "dns_listen": "IP:PORT",
    "dns_upstream": "IP[:PORT],...",
    "advertise": "IP",
    "peer_port": "PORT",
    "join": "HOST[:PORT]",
    "cpu": "CORES",
    "memory": "SIZE",
}


def arguments(said: Mapping[str, str | None], config_file: Path | None) -> list[str]:
    """What was said, as milld's command line takes it."""
    words = [f"{_flag(name)}={value}" for name, value in said.items() if value is not None]
    return words if config_file is None else [*words, f"--config={config_file}"]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
