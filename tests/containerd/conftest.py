"""A real containerd for every test that wants one: started once, by `embedded.serve` in a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from mill.containerd import embedded
from mill.containerd import session as session_service
from mill.containerd.session import Session
from tests.containerd.places import Place
from tests.containerd.tasks import Lab

RUN_EMBEDDED = """
import signal, sys
from pathlib import Path
import trio
from mill.containerd import embedded

async def main():
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            print(await nursery.start(embedded.serve, Path(sys.argv[1])), flush=True)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                return

trio.run(main)
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A directory with a path short enough for sockets, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="mill-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def containerd_socket() -> Iterator[str]:
    """The socket of an embedded containerd that all tests of the session share."""
    directory = Path(tempfile.mkdtemp(prefix="mill-", dir="/tmp"))
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_EMBEDDED, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        assert process.stdout is not None
        socket = process.stdout.readline().strip()
        assert socket, "the embedded containerd did not start"
        yield socket
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        shutil.rmtree(directory)


@pytest.fixture
async def session(containerd_socket: str, nursery: trio.Nursery) -> Session:
    """A session with the shared containerd."""
    made: Session = await nursery.start(session_service.serve, containerd_socket)
    return made


@pytest.fixture
async def place(data_dir: Path, nursery: trio.Nursery) -> Place:
    socket: str = await nursery.start(embedded.serve, data_dir)
    session: Session = await nursery.start(session_service.serve, socket)
    return Place(session, nursery)


@pytest.fixture
async def lab(nursery: trio.Nursery, session: Session, data_dir: Path) -> AsyncIterator[Lab]:
    lab = await Lab.open(nursery, session, data_dir)
    yield lab
    with trio.CancelScope(shield=True):
        await lab.close()
