"""A log store per test, which must leave neither FIFO, file descriptor, thread nor holder behind."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mill.logs.store import Logs
from tests.logs.lab import capture_threads, holders, open_count, open_files, running, wait_until


@pytest.fixture
async def logs(data_dir: Path) -> AsyncIterator[Logs]:
    async with running(data_dir) as logs:
        yield logs
        for path in (data_dir / "fifos").iterdir():
            await logs.drain(path.name)


@pytest.fixture
async def data_dir(tmp_path: Path) -> AsyncIterator[Path]:
    """Where milld keeps everything; at the end of the test only logs are left."""
    before = open_count()
    directory = tmp_path / "mill"
    directory.mkdir()
    yield directory
    try:
        await wait_until(lambda: not holders(directory))
    finally:
        for pid in holders(directory):
            os.kill(pid, signal.SIGKILL)
    assert open_files(directory) == []
    assert capture_threads() == 0
    await wait_until(lambda: open_count() <= before)
    assert sorted(path.name for path in directory.iterdir()) == ["fifos", "logs"]
    assert list((directory / "fifos").iterdir()) == []
