"""Streams against a real containerd and against an echo of ours: order, ends, back-pressure, cancellation."""

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trio

from mill.containerd import rpcs
from mill.containerd.faults import RpcAlreadyExists, RpcError, RpcNotFound, RpcOutOfRange, RpcUnavailable
from mill.containerd.proto import content_pb2, events_pb2, leases_pb2, snapshots_pb2
from mill.containerd.session import Session, opened
from mill.units import MIB
from tests.containerd.wire import forget_ingest, grpc_server

ROOTED = {"containerd.io/gc.root": "1"}
"""Else garbage collection, which any deletion may start, would take what no lease holds."""


async def write(
    session: Session, data: bytes, *, ref: str, lease: str | None = None, piece_bytes: int = MIB
) -> str:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    request = content_pb2.WriteContentRequest
    async with session.stream(rpcs.CONTENT_WRITE, lease=lease) as blob:
        await blob.send(request(action=content_pb2.STAT, ref=ref, total=len(data), expected=digest))
        assert (await blob.receive()).offset == 0
        for offset in range(0, len(data), piece_bytes):
            piece = data[offset : offset + piece_bytes]
            await blob.send(request(action=content_pb2.WRITE, offset=offset, data=piece))
            assert (await blob.receive()).offset == offset + len(piece)
        await blob.send(
            request(action=content_pb2.COMMIT, offset=len(data), total=len(data), expected=digest)
        )
        assert (await blob.receive()).digest == digest
    return digest


async def test_a_blob_is_written_listed_read_and_deleted(session: Session) -> None:
    await session.call(rpcs.LEASES_CREATE, leases_pb2.CreateRequest(id="blob"))
    data = os.urandom(3 * MIB + 17)
    digest = await write(session, data, ref="blob", lease="blob")
    held = await session.call(rpcs.LEASES_LIST_RESOURCES, leases_pb2.ListResourcesRequest(id="blob"))
    assert [resource.id for resource in held.resources] == [digest]
    listed = await session.collect(rpcs.CONTENT_LIST, content_pb2.ListContentRequest())
    assert digest in {info.digest for answer in listed for info in answer.info}
    pieces = await session.collect(rpcs.CONTENT_READ, content_pb2.ReadContentRequest(digest=digest))
    assert b"".join(piece.data for piece in pieces) == data
    with pytest.raises(RpcAlreadyExists):
        await write(session, data, ref="blob-again", lease="blob")
    await session.call(rpcs.CONTENT_DELETE, content_pb2.DeleteContentRequest(digest=digest))
    with pytest.raises(RpcNotFound):
        await session.call(rpcs.CONTENT_INFO, content_pb2.InfoRequest(digest=digest))
    await session.call(rpcs.LEASES_DELETE, leases_pb2.DeleteRequest(id="blob", sync=True))


async def test_a_write_at_the_wrong_offset_is_out_of_range_and_sending_on_says_so_too(
    session: Session,
) -> None:
    request = content_pb2.WriteContentRequest
    async with session.stream(rpcs.CONTENT_WRITE) as blob:
        await blob.send(request(action=content_pb2.STAT, ref="wrong", total=10))
        await blob.receive()
        await blob.send(request(action=content_pb2.WRITE, offset=5, data=b"12345"))
        with pytest.raises(RpcOutOfRange):
            await blob.receive()
        with pytest.raises(RpcOutOfRange):
            await blob.receive()
        with pytest.raises(RpcOutOfRange):
            await blob.send(request(action=content_pb2.WRITE, offset=0, data=b"12345"))
    await forget_ingest(session, "wrong")


async def can_open(session: Session, stat: content_pb2.WriteContentRequest) -> bool:
    async with session.stream(rpcs.CONTENT_WRITE) as blob:
        await blob.send(stat)
        try:
            await blob.receive()
        except RpcUnavailable:
            return False
    return True


async def test_leaving_a_write_gives_its_ref_back(session: Session) -> None:
    stat = content_pb2.WriteContentRequest(action=content_pb2.STAT, ref="left", total=10)
    async with session.stream(rpcs.CONTENT_WRITE) as blob:
        await blob.send(stat)
        await blob.receive()
        assert not await can_open(session, stat)
    with trio.fail_after(5):
        while not await can_open(session, stat):  # noqa: ASYNC110 -- containerd tells nobody
            await trio.sleep(0.01)
    await forget_ingest(session, "left")


async def test_done_sending_ends_a_stream(data_dir: Path) -> None:
    echo = grpc.stream_stream_rpc_method_handler(lambda requests, _context: requests)
    request = content_pb2.WriteContentRequest(ref="x")
    with (
        grpc_server(data_dir / "s", {rpcs.CONTENT_WRITE: echo}),
        opened(str(data_dir / "s"), "mill") as session,
    ):
        async with session.stream(rpcs.CONTENT_WRITE) as stream:
            await stream.send(content_pb2.WriteContentRequest(offset=7))
            assert (await stream.receive()).total == 7
            await stream.done_sending()
            for _ in range(2):
                with pytest.raises(trio.EndOfChannel):
                    await stream.receive()
            with pytest.raises(RpcError, match="over"):
                await stream.send(request)


async def test_a_cancelled_receive_loses_no_message(session: Session) -> None:
    async with session.stream(rpcs.EVENTS_SUBSCRIBE) as events:
        await events.send(events_pb2.SubscribeRequest(filters=['topic~="/snapshot/"']))
        with trio.move_on_after(0.1) as patience:
            await events.receive()
        assert patience.cancelled_caught
        name = session.features.snapshotter
        for key in ("one", "two"):
            await session.call(
                rpcs.SNAPSHOTS_PREPARE,
                snapshots_pb2.PrepareSnapshotRequest(snapshotter=name, key=key, labels=ROOTED),
            )
            await session.call(
                rpcs.SNAPSHOTS_REMOVE, snapshots_pb2.RemoveSnapshotRequest(snapshotter=name, key=key)
            )
        with trio.fail_after(5):
            envelopes = [await events.receive() for _ in range(4)]
    assert [envelope.topic for envelope in envelopes] == ["/snapshot/prepare", "/snapshot/remove"] * 2
    assert envelopes[0].namespace == "mill"
    assert envelopes[0].event.type_url.rpartition("/")[2] == "containerd.events.SnapshotPrepare"


async def test_a_listing_of_snapshots_comes_as_a_stream(session: Session) -> None:
    name = session.features.snapshotter
    prepare = snapshots_pb2.PrepareSnapshotRequest(snapshotter=name, key="listed", labels=ROOTED)
    answer = await session.call(rpcs.SNAPSHOTS_PREPARE, prepare)
    assert len(answer.mounts) == 1
    listed = await session.collect(rpcs.SNAPSHOTS_LIST, snapshots_pb2.ListSnapshotsRequest(snapshotter=name))
    infos = {info.name: info for found in listed for info in found.info}
    assert infos["listed"].kind == snapshots_pb2.ACTIVE
    assert dict(infos["listed"].labels) == ROOTED
    await session.call(
        rpcs.SNAPSHOTS_REMOVE, snapshots_pb2.RemoveSnapshotRequest(snapshotter=name, key="listed")
    )


async def test_requests_wait_for_a_reader_that_does_not_read(data_dir: Path) -> None:
    release = threading.Event()

    def swallow(requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        release.wait(10)
        yield from (b"" for _ in requests)

    piece = content_pb2.WriteContentRequest(data=bytes(MIB))
    taken = 0
    with (
        grpc_server(data_dir / "s", {rpcs.CONTENT_WRITE: grpc.stream_stream_rpc_method_handler(swallow)}),
        opened(str(data_dir / "s"), "mill") as session,
    ):
        async with session.stream(rpcs.CONTENT_WRITE) as blob:
            with trio.move_on_after(0.5) as patience:
                for _ in range(64):
                    await blob.send(piece)
                    taken += 1
            release.set()
    assert patience.cancelled_caught
    assert taken < 16
