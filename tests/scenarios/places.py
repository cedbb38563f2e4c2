"""Small disks, and a containerd beside the node: what the scenarios of full and read-only disks stand on. Called by them only."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests import leaks
from tests.node import ROOT, Node

TMPFS_BYTES = 64 * 1024**2
FILLER = "filler"

RUN_CONTAINERD = """
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


@contextmanager
def small_disk(where: Path) -> Iterator[Path]:
    """A tmpfs of `TMPFS_BYTES` at *where*."""
    where.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES},mode=700", "mill-test", where], check=True
    )
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=False, stderr=subprocess.DEVNULL)  # a sweep was quicker


def fill(disk: Path) -> Path:
    """The disk full to its last byte; the file that takes the room."""
    filler = disk / FILLER
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        size = 1024**2
        while size:
            try:
                while file.write(b"\0" * size) == size:
                    pass
            except OSError:
                pass
            size //= 2
    assert os.statvfs(disk).f_bavail == 0
    return filler


@contextmanager
def containerd_under(directory: Path) -> Iterator[Path]:
    """A containerd of its own, with everything below *directory*: its socket. Stopped at the end, its shims too."""
    directory.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_CONTAINERD, directory],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        socket = process.stdout.readline().strip()
        assert socket, "containerd did not start"
        yield Path(socket)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def left_in(containerd: Path, node: Node) -> list[str]:
    """What the node has left, in a containerd that is not its own too, after its cleaning had time."""
    node.known |= {record["id"] for record in node.records()}
    site = leaks.Site(
        data_dir=node.data_dir,
        socket=containerd,
        cgroup=f"mill/{node.node_id[:8]}",
        ids=frozenset(node.known),
        namespaces_before=node.namespaces_before,
    )
    return leaks.wait_clean(site, allowed=node.at_rest)
