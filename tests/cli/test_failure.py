"""Whatever happens is one line and an exit code: no milld, no token, another server, a bug of ours, Ctrl-C, a closed pipe."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mill.cli import connect, failure, main
from mill.cli.main import COMMANDS, cli
from mill.errors import ConnectionFailed
from tests.cli.conftest import Mill
from tests.client.fake_api import FakeApi

Start = Callable[..., subprocess.Popen[str]]

SUBCOMMANDS = [
    *([name] for name in COMMANDS),
    *(["templates", name] for name in ("ls", "show", "rm")),
    *(["images", name] for name in ("ls", "load")),
    *(["nodes", name] for name in ("ls", "forget", "join-command", "rotate-secret")),
]

SCRIPTS = {"systemd-unit", "completion"}
"""What they print is for another program."""


@pytest.mark.parametrize("command", SUBCOMMANDS, ids=" ".join)
def test_every_command_has_help_and_json(mill: Mill, command: list[str]) -> None:
    short, long = mill(*command, "-h").stdout, mill(*command, "--help").stdout
    assert short == long
    assert short.startswith(f"Usage: mill {' '.join(command)}")
    assert ("--json" in short) is (command[0] not in SCRIPTS)


def test_the_help_s_line_of_each_command_is_there_without_loading_it(mill: Mill) -> None:
    shown = mill("--help").stdout
    width = max(map(len, COMMANDS)) + 2
    for name, (_, line) in COMMANDS.items():
        assert f"  {name.ljust(width)}{line}\n" in shown


def test_version(mill: Mill) -> None:
    assert mill("--version").stdout.startswith("mill ")


def test_a_mistyped_command_is_told_with_the_one_that_was_meant(mill: Mill) -> None:
    assert mill("spwan", code=2).stderr == "mill: no such command 'spwan': did you mean 'spawn'?\n"
    assert mill("--nonsense", code=2).stderr == "mill: no such option '--nonsense'; see 'mill --help'\n"
    assert "missing argument" in mill("kill", code=2).stderr
    assert "Usage: mill" in mill(code=2).stderr


def test_no_milld_is_one_line(mill: Mill, api: FakeApi) -> None:
    api.do(api.stop_listening)
    assert mill("ps", code=1).stderr == (
        f"mill: cannot reach milld at {api.address}: connection refused; is it running? set MILL_ADDRESS\n"
    )


def test_a_name_that_does_not_resolve_is_one_line(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILL_ADDRESS", "no-such-host.invalid")
    stderr = mill("ps", code=1).stderr
    assert stderr.startswith("mill: cannot reach milld at https://no-such-host.invalid:4400: ")
    assert stderr.count("\n") == 1


def test_a_bad_address_is_bad_input(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILL_ADDRESS", "ftp://x")
    assert mill("ps", code=2).stderr.startswith("mill: MILL_ADDRESS: 'ftp://x' is not an address")


def test_a_missing_or_wrong_token_says_what_to_do(
    mill: Mill, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MILL_TOKEN", "wrong")
    assert mill("ps", code=2).stderr == "mill: no token that this node knows; set MILL_TOKEN\n"
    monkeypatch.delenv("MILL_TOKEN")
    monkeypatch.setenv("MILL_DATA_DIR", str(tmp_path))
    assert f"cannot read {tmp_path}/admin.token (no such file or directory)" in mill("ps", code=2).stderr


def test_a_server_that_is_not_milld_is_told(mill: Mill, api: FakeApi) -> None:
    api.answers["/v1/tasks"] = (200, b"<html>")
    assert "without saying why; is it milld?" in mill("ps", code=1).stderr
    api.answers["/v1/tasks"] = (200, b'{"tasks": [{"id": 1}]}')
    assert "something this client cannot read" in mill("ps", code=1).stderr


def test_a_bug_of_ours_is_one_line_unless_somebody_debugs(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("x\ny")

    monkeypatch.setattr(connect, "run", broken)
    stderr = mill("status", code=1).stderr
    assert stderr == "mill: internal error: KeyError: 'x\\ny' (please report; MILL_DEBUG=1 shows where)\n"
    monkeypatch.setenv("MILL_DEBUG", "1")
    assert "Traceback" in mill("status", code=1).stderr


def test_an_unexpected_shape_in_a_listing_is_no_traceback(mill: Mill, api: FakeApi) -> None:
    api.answers["/v1/tasks"] = (200, b"[]")
    stderr = mill("ps", code=1).stderr
    assert stderr.count("\n") == 1


def test_ctrl_c_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(connect, "run", interrupted)
    result = CliRunner().invoke(cli, ["status"])
    assert (result.exit_code, result.stderr) == (main.EXIT_INTERRUPTED, "")


def test_a_closed_pipe_is_quiet(start: Start, api: FakeApi) -> None:
    for _ in range(900):
        api.do(lambda: api.add(start=False))
    reader, writer = os.pipe()
    os.close(reader)
    process = start("ps", stdout=writer)
    os.close(writer)
    assert process.wait(20) == main.EXIT_BROKEN_PIPE
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_a_full_disk_is_told(start: Start, api: FakeApi) -> None:
    api.do(lambda: api.add(start=False))
    with Path("/dev/full").open("w") as full:
        process = start("ps", stdout=full)
        assert process.wait(20) == 1
    assert process.stderr is not None
    assert process.stderr.read() == "mill: no space left on device\n"


def test_of_several_errors_the_telling_one_is_told() -> None:
    lost = ConnectionFailed("lost")
    group = BaseExceptionGroup("", [ValueError("x"), ExceptionGroup("", [lost, RuntimeError()])])
    assert failure.leaf(group) is lost
    stop = click.exceptions.Exit(130)
    assert failure.leaf(BaseExceptionGroup("", [lost, stop])) is stop


def test_a_line_stays_one_line_whatever_is_in_it() -> None:
    assert failure.one_line("a\nb\x1b[2J\tc") == "a b\\x1b[2J c"
