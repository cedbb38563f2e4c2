"""``python -m mill.daemon.doctor``: looks at this host as milld would find it, and says what is wrong and what to do.

`mill doctor` runs it and shows what it prints: the command line imports nothing of the daemon's side. Exit codes: 0 milld
could run tasks, 1 something would stop it, 3 the daemon's own packages are not here.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import click

EXIT_PROBLEM = 1
EXIT_NO_NODE = 3


def main() -> None:
    """Imports late, so that a machine without the daemon's packages gets a line."""
    try:
        from mill.daemon.options import setup_options  # noqa: PLC0415 -- as the docstring says

        command = click.command()(setup_options(click.option("--json", "as_json", is_flag=True)(doctor)))
        command.main(prog_name="mill doctor")
    except ImportError as error:
        click.echo(f"milld's own packages are missing here ({error})", err=True)
        sys.exit(EXIT_NO_NODE)


def doctor(config_file: Path | None, *, as_json: bool, **flags: str | None) -> None:
    """Look at this host."""
    import trio  # noqa: PLC0415 -- as in `main`

    from mill.daemon.doctor.examine import examine  # noqa: PLC0415 -- as in `main`
    from mill.daemon.doctor.findings import report  # noqa: PLC0415 -- as in `main`
    from mill.daemon.doctor.host import Host  # noqa: PLC0415 -- as in `main`
    from mill.daemon.doctor.setup import configured  # noqa: PLC0415 -- as in `main`

    config, found = configured(flags, os.environ, config_file)
    found += trio.run(partial(examine, Host(config)))
    said = report(found)
    if as_json:
        click.echo(json.dumps(said))
    else:
        for finding in found:
            click.echo(f"{finding.level:8} {finding.check:10} {'; '.join((finding.found, *finding.advice))}")
    if said["problems"]:
        sys.exit(EXIT_PROBLEM)


if __name__ == "__main__":
    main()
