"""The command against the fake API: in this process (quick, a fixed clock) or in one of its own (signals, pipes, exit codes)."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mill.cli.main import cli
from tests.client import fake_api
from tests.client.fake_api import TOKEN, FakeApi
from tests.client.fake_node import EPOCH

Mill = Callable[..., Result]
NOW = EPOCH + 720.0
COMMAND = [sys.executable, "-m", "mill.cli.main"]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api.running() as api:
        yield api


@pytest.fixture
def environ(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Also set here, so that both ways of running find the fake."""
    for name in list(os.environ):
        if name.startswith("MILL_"):
            monkeypatch.delenv(name)
    ours = {"MILL_ADDRESS": api.address, "MILL_TOKEN": TOKEN, "TERM": "dumb"}
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def mill(environ: dict[str, str]) -> Mill:
    """Runs the command in this process; *code* is what it must exit with."""

    def run(*args: str, code: int = 0, stdin: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(cli, args, input=stdin, obj=lambda: NOW)
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    assert environ
    return run


@pytest.fixture
def start(environ: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def run(*args: str, **options: Any) -> subprocess.Popen[str]:
        defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([*COMMAND, *args], text=True, env=environ, **{**defaults, **options})
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
