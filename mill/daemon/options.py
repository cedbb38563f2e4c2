"""milld's options as flags. Used by `main`, and by `doctor`, which looks at a host as milld with these options would find it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mill.config import OPTIONS, REPEATABLE, switch


def setup_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Every option of `config.OPTIONS` as a flag, and ``--config``, which is passed on as `config_file`."""
    command = click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        envvar="MILL_CONFIG",
        help="a TOML file with these options",
    )(command)
    for name, (parse, text) in reversed(list(OPTIONS.items())):
        flag = f"--{name.replace('_', '-')}"
        bare: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if parse is switch else {}
        if name in REPEATABLE:
            bare = {"multiple": True, "callback": _joined}
        command = click.option(flag, name, help=f"{text}  [MILL_{name.upper()}]", **bare)(command)
    return command


def _joined(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> str | None:
    return ",".join(values) or None
