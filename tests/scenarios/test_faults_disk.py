"""A disk full to the last byte, or read-only, under milld's data directory or under containerd: told, survived, left behind."""

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from mill.client import Client
from mill.errors import NoSpace
from mill.model import Reason, Record, Status
from tests import leaks
from tests import registry as real
from tests.images import OciImage, large_layer, make_layer, push
from tests.node import Node
from tests.scenarios.acts import POLL_S, WITHIN_S, end_of, printed, running, spawn, until
from tests.scenarios.places import TMPFS_BYTES, containerd_under, fill, left_in, small_disk

TALKED = 400
TALK = f"for i in $(seq 1 {TALKED}); do echo $i; usleep 4000; done"
OPTIONS = {"cpu": "64", "memory": "64G"}


@contextmanager
def node_on(data: Path, containerd_dir: Path, home: Path) -> Iterator[tuple[Node, Path]]:
    """A node whose data directory is *data*, with a containerd below *containerd_dir*, and that one's socket."""
    with containerd_under(containerd_dir) as socket:
        node = Node(
            name="tight", home=home, options={**OPTIONS, "containerd": str(socket), "data-dir": str(data)}
        )
        try:
            node.start().load_busybox()
            yield node, socket
            assert left_in(socket, node) == []
            assert node.terminate() < 5
            assert "Traceback" not in node.log.read_text()
            assert '"exception"' not in node.log.read_text()
        finally:
            node.destroy()
            leaks.sweep(attrs.evolve(node.site(), data_dir=home))
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def home() -> Path:
    return Path(tempfile.mkdtemp(prefix="mill-", dir="/tmp"))


@pytest.fixture
def tight(home: Path) -> Iterator[Node]:
    """Its data directory is a small disk; containerd is elsewhere."""
    with ExitStack() as stack:
        data = stack.enter_context(small_disk(home / "d"))
        node, _ = stack.enter_context(node_on(data, home / "c", home))
        yield node


@pytest.fixture
def tight_containerd(home: Path) -> Iterator[Node]:
    """containerd is on a small disk; the data directory is elsewhere."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(home / "c"))
        node, _ = stack.enter_context(node_on(home / "d", disk, home))
        yield node


def told(node: Node, event: str) -> list[str]:
    return [line for line in node.log.read_text().splitlines() if f'"event": "{event}' in line]


async def refusal(client: Client) -> str:
    """What a spawn is told that the node has no room for; one that was let in within the second ended truly."""
    while True:
        try:
            task_id = await spawn(client, "true")
        except NoSpace as error:
            return str(error)
        record = await end_of(client, task_id)
        assert (record.reason, record.detail) in {(Reason.EXIT, None), (Reason.START_ERROR, "disk")}, record


async def test_a_full_data_directory_loses_nothing_and_needs_no_restart(tight: Node) -> None:
    """Ends are held until they can be written, a kill acts at once, spawns are refused with the reason; then all goes on."""
    async with Client(tight.address, tight.token, patience=0) as client:
        talker = await running(client, "sh", "-c", f"{TALK}; exit 7")
        doomed = await running(
            client, "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.02; done", grace=10
        )
        brief = await running(client, "sh", "-c", "sleep 1.5; echo last words; exit 4")
        filler = await trio.to_thread.run_sync(fill, tight.data_dir)
        assert "full" in await refusal(client)
        with trio.fail_after(5):
            assert (await client.kill(doomed)).status in {Status.RUNNING, Status.STOPPED}
        await until(lambda: len(children_in_group(tight, doomed)) == 0)
        await until(lambda: len(children_in_group(tight, brief)) == 0)
        assert "full" in await refusal(client)
        assert tight.api("GET", "/healthz").status_code == 200
        filler.unlink()
        ends = {task_id: await end_of(client, task_id) for task_id in (doomed, brief, talker)}
        check_ends(ends[doomed], ends[brief], ends[talker])
        assert await printed(client, brief) == "last words\n"
        assert (await printed(client, talker)).split() == [str(i) for i in range(1, TALKED + 1)]
        assert (await end_of(client, await until_let_in(client))).exit_code == 0
    check_database(tight)
    for task_id in (doomed, brief):
        assert len([line for line in told(tight, "cannot store a task's state") if task_id in line]) == 1
    assert len([line for line in told(tight, "the log cannot be written") if talker in line]) == 1


async def test_a_full_disk_under_containerd_refuses_spawns_and_harms_no_running_task(
    tight_containerd: Node,
) -> None:
    """What containerd cannot remove now is removed once it can."""
    async with Client(tight_containerd.address, tight_containerd.token, patience=0) as client:
        talker = await running(client, "sh", "-c", f"{TALK}; exit 7")
        doomed = await running(client, "sleep", "100", grace=0.1)
        brief = await running(client, "sh", "-c", "sleep 1.5; echo last words; exit 4")
        filler = await trio.to_thread.run_sync(fill, tight_containerd.home / "c")
        assert "containerd's store" in await refusal(client)
        await client.kill(doomed)
        assert (await end_of(client, doomed)).reason == Reason.KILLED
        assert (await end_of(client, brief)).exit_code == 4
        assert await printed(client, brief) == "last words\n"
        assert "containerd's store" in await refusal(client)
        filler.unlink()
        assert (await end_of(client, talker)).exit_code == 7
        assert (await printed(client, talker)).split() == [str(i) for i in range(1, TALKED + 1)]
        assert (await end_of(client, await until_let_in(client))).exit_code == 0


async def test_a_pull_or_a_start_that_fills_containerds_disk_ends_by_disk(
    tight_containerd: Node, registry: real.Registry
) -> None:
    """Of two images, one whose layer has no room, and one whose layer has none once it is unpacked."""
    layers = {"large": large_layer(TMPFS_BYTES), "wide": make_layer({"wide": bytes(TMPFS_BYTES)})}
    for name, layer in layers.items():
        await push(OciImage([layer], compression="gzip"), registry.host, name, "1")
    async with Client(tight_containerd.address, tight_containerd.token, patience=0) as client:
        for name in layers:
            task_id = await until_let_in(client, image=f"{registry.host}/{name}:1")
            record = await end_of(client, task_id)
            assert (record.reason, record.detail) == (Reason.PULL_ERROR, "disk"), record.message
        assert (await end_of(client, await until_let_in(client))).exit_code == 0


async def until_let_in(client: Client, **fields: Any) -> str:
    """What a failed pull has left, containerd removes a moment later."""
    with trio.fail_after(WITHIN_S):
        while True:
            try:
                return await spawn(client, "true", **fields)
            except NoSpace:
                await trio.sleep(POLL_S)


def check_ends(doomed: Record, brief: Record, talker: Record) -> None:
    assert (doomed.reason, doomed.exit_code) == (Reason.KILLED, 3)
    assert (brief.reason, brief.exit_code) == (Reason.EXIT, 4)
    assert (talker.reason, talker.exit_code) == (Reason.EXIT, 7)


def check_database(node: Node) -> None:
    database = sqlite3.connect(f"file:{node.data_dir / 'mill.db'}?mode=ro", uri=True)
    try:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        database.close()


def children_in_group(node: Node, task_id: str) -> list[str]:
    """The processes of the task's control group."""
    found = list(Path("/sys/fs/cgroup").glob(f"**/mill/{node.node_id[:8]}/{task_id}/cgroup.procs"))
    return [pid for path in found[:1] for pid in path.read_text().split()]
