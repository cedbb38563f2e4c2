"""What milld is set up as, for doctor: from the same sources as milld's own, and from the milld that runs, where one does.

So that `mill doctor` without options speaks of the node that is there. What was said to doctor wins.
"""

from collections.abc import Mapping
from pathlib import Path

import click

from mill.config import Config, load
from mill.daemon.doctor.findings import Finding, problem
from mill.daemon.doctor.host import Host, read
from mill.daemon.options import setup_options
from mill.errors import SetupError

MEND = "mend it: milld does not start with it; below it counts as not said"

Flags = Mapping[str, str | None]


def configured(
    flags: Flags, environ: Mapping[str, str], config_file: Path | None
) -> tuple[Config, list[Finding]]:
    """The configuration, and what is wrong with it; then only what is right of it counts."""
    try:
        config = load(flags, environ, config_file)
    except SetupError as error:
        return _without_faults(flags, environ), [problem("setup", str(error), MEND)]
    host = Host(config)
    pid = host.milld_of(config.data_dir)
    if pid is None or config_file is not None:
        return config, []
    try:
        return load(*_of_running(host, pid, flags, environ)), []
    except SetupError:  # its file has changed since
        return config, []


def _of_running(
    host: Host, pid: int, flags: Flags, environ: Mapping[str, str]
) -> tuple[Flags, Mapping[str, str], Path | None]:
    """As for `load`: flags, environment and file of the milld that runs, with what was said here over them."""
    folder = host.proc / str(pid)
    words = read(folder / "cmdline").rstrip("\0").split("\0")
    first = next((at for at, word in enumerate(words) if word.startswith("--")), len(words))
    pairs = (pair.partition("=") for pair in read(folder / "environ").split("\0"))
    theirs = {name: value for name, _, value in pairs if name.startswith("MILL_")}
    command = click.Command("milld", params=_PARAMETERS)
    said = command.make_context("milld", words[first:], resilient_parsing=True).params
    file = said.pop("config_file", None) or theirs.get("MILL_CONFIG")
    mine = {name: value for name, value in flags.items() if value is not None}
    ours = {name: value for name, value in environ.items() if name.startswith("MILL_") and value}
    unsaid = {name: value for name, value in said.items() if f"MILL_{name.upper()}" not in ours}
    return {**unsaid, **mine}, {**theirs, **ours}, None if file is None else (folder / "cwd").resolve() / file


@setup_options
def _nothing() -> None:
    """Carries milld's options."""


_PARAMETERS: list[click.Parameter] = click.command()(_nothing).params


def _without_faults(flags: Flags, environ: Mapping[str, str]) -> Config:
    """What is right of flags and environment, one by one; the file, which cannot be read in parts, left out."""
    right: dict[str, str | None] = {}
    for name, flag in flags.items():
        said = flag if flag is not None else environ.get(f"MILL_{name.upper()}")
        try:
            load({name: said}, {}, None)
        except SetupError:
            continue
        right[name] = said
    return load(right, {}, None)
