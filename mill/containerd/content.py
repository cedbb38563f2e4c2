"""Blobs into and out of containerd's content store. Knows digests and bytes, not what they mean or whence they come.

Called by `pull`, `load` and `images`. A write resumes where an earlier one stopped; containerd checks size and digest
when it commits. The order of the messages is what containerd's own client sends (STAT, WRITE ..., COMMIT).
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress

import attrs
import trio
from google.protobuf.field_mask_pb2 import FieldMask

from mill.containerd import rpcs
from mill.containerd.faults import RpcAlreadyExists, RpcFailedPrecondition, RpcNotFound, RpcUnavailable
from mill.containerd.oci import Descriptor
from mill.containerd.proto import content_pb2, leases_pb2
from mill.containerd.session import Session
from mill.containerd.stream import Stream

WRITE_BYTES = (
    2**20
)  # of one message; containerd takes up to 16 MiB, and the event loop must not be held up by copying
_WINDOW = 4  # messages under way before the first answer is waited for
_LOCKED_FIRST_S, _LOCKED_MOST_S = 0.05, 1.0  # between looks at a blob that somebody else is writing
_RECONNECT_S = 30.0  # how long a write waits for containerd to come back

Source = Callable[[int], AsyncGenerator[bytes, None]]
"""The bytes of a blob from an offset on, in pieces of any size up to about a mebibyte."""

_Write = Stream[content_pb2.WriteContentRequest, content_pb2.WriteContentResponse]


class DigestMismatch(Exception):
    """Bytes are not those that a digest stands for; `str()` is a clause that says which. Nothing of them is kept."""


@attrs.frozen
class Ingest:
    """A blob on its way into the store: `source` gives its bytes, `on_bytes` hears how many have come.

    Writers of one `ref` take turns, in whatever process they are. What is `resumable` belongs to no lease while it is
    written: when it is given up, the next writer of the ref goes on where it stopped, for as long as containerd keeps
    unfinished writes (a day). What is not goes with the lease.
    """

    blob: Descriptor
    source: Source
    ref: str
    labels: Mapping[str, str]
    on_bytes: Callable[[int], None] = lambda _: None
    resumable: bool = False


async def write(session: Session, lease: str, ingest: Ingest) -> None:
    """Have the blob in the store, leased and labelled. Raises `DigestMismatch`, RpcError, and what the source raises."""
    blob = ingest.blob
    if ingest.resumable:  # the finished blob is leased before it is there: nothing can come in between
        resource = leases_pb2.Resource(id=blob.digest, type="content")
        request = leases_pb2.AddResourceRequest(id=lease, resource=resource)
        await session.call(rpcs.LEASES_ADD_RESOURCE, request)
    stream_lease = None if ingest.resumable else lease
    resumed = await _write_in_turn(session, stream_lease, ingest)
    while resumed is not None:
        with suppress(RpcNotFound):
            await session.call(rpcs.CONTENT_ABORT, content_pb2.AbortRequest(ref=ingest.ref))
        if not resumed:
            raise DigestMismatch(f"what came is not what {blob.digest} stands for: it is damaged")
        # What an earlier try left may have been what was wrong: once more from the beginning.
        resumed = await _write_in_turn(session, stream_lease, ingest)


async def write_bytes(
    session: Session, lease: str, blob: Descriptor, data: bytes, *, labels: Mapping[str, str]
) -> None:
    """A small blob that is at hand whole, with its digest known to be right."""

    async def source(offset: int) -> AsyncGenerator[bytes, None]:
        for start in range(offset, len(data), WRITE_BYTES):
            await trio.lowlevel.checkpoint()
            yield data[start : start + WRITE_BYTES]

    # The lease makes the ref unique: nobody waits for a small blob, and nothing is resumed.
    await write(session, lease, Ingest(blob, source, f"blob-{blob.digest}-{lease}", labels))


async def read(session: Session, digest: str, limit_bytes: int) -> bytes:
    """A whole blob. RpcNotFound when it is not there; ValueError when it has more than *limit_bytes*."""
    info = (await session.call(rpcs.CONTENT_INFO, content_pb2.InfoRequest(digest=digest))).info
    if info.size > limit_bytes:
        raise ValueError(f"{digest} has {info.size} bytes, {limit_bytes} are allowed")
    answers = await session.collect(rpcs.CONTENT_READ, content_pb2.ReadContentRequest(digest=digest))
    return b"".join(answer.data for answer in answers)


async def add_labels(session: Session, digest: str, labels: Mapping[str, str]) -> None:
    """Labels for a blob that is in the store, beside those it has."""
    if not labels:
        return  # to containerd an update of no field is one of all
    info = content_pb2.Info(digest=digest, labels=labels)
    mask = FieldMask(paths=[f"labels.{key}" for key in labels])
    await session.call(rpcs.CONTENT_UPDATE, content_pb2.UpdateRequest(info=info, update_mask=mask))


async def _write_in_turn(session: Session, lease: str | None, ingest: Ingest) -> bool | None:
    """None: it is there. Else its digest was wrong, and the bool says whether the write had resumed an earlier one."""
    blob, delay_s = ingest.blob, _LOCKED_FIRST_S
    while True:
        try:
            async with session.stream(rpcs.CONTENT_WRITE, lease=lease) as stream:
                offset = await _begin(stream, blob, ingest.ref)
                ingest.on_bytes(offset)
                await _copy(stream, ingest, offset)
                try:
                    await _commit(stream, blob, ingest.labels)
                except RpcFailedPrecondition:
                    return offset > 0
                return None
        except RpcAlreadyExists:
            await add_labels(session, blob.digest, ingest.labels)
            ingest.on_bytes(blob.size)
            return None
        except RpcUnavailable:
            # Somebody else is writing it (containerd's code for a locked ref), or containerd has gone away.
            with trio.move_on_after(_RECONNECT_S):
                await session.wait_connected()
            if not session.connected:
                raise
        await trio.sleep(delay_s)
        delay_s = min(delay_s * 2, _LOCKED_MOST_S)


async def _begin(stream: _Write, blob: Descriptor, ref: str) -> int:
    """Take the ref's lock; where to go on."""
    await stream.send(
        content_pb2.WriteContentRequest(
            action=content_pb2.STAT, ref=ref, total=blob.size, expected=blob.digest
        )
    )
    return (await stream.receive()).offset


async def _copy(stream: _Write, ingest: Ingest, offset: int) -> None:
    """WRITE all from *offset* on, a few messages ahead of the answers."""
    blob = ingest.blob
    if offset >= blob.size:
        return
    under_way = 0
    async with aclosing(
        _batched(ingest.source(offset), lambda read: ingest.on_bytes(offset + read))
    ) as batches:
        written = offset
        async for data in batches:
            request = content_pb2.WriteContentRequest(
                action=content_pb2.WRITE, offset=written, total=blob.size, expected=blob.digest, data=data
            )
            await stream.send(request)
            written += len(data)
            under_way += 1
            if under_way == _WINDOW:
                await stream.receive()
                under_way -= 1
    for _ in range(under_way):
        await stream.receive()


async def _commit(stream: _Write, blob: Descriptor, labels: Mapping[str, str]) -> None:
    await stream.send(
        content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT,
            offset=blob.size,
            total=blob.size,
            expected=blob.digest,
            labels=labels,
        )
    )
    await stream.receive()


async def _batched(
    pieces: AsyncGenerator[bytes, None], on_read: Callable[[int], None]
) -> AsyncGenerator[bytes, None]:
    """The same bytes in pieces of about `WRITE_BYTES`; *on_read* hears how many were read so far."""
    held: list[bytes] = []
    size = total = 0
    async with aclosing(pieces):
        async for piece in pieces:
            held.append(piece)
            size += len(piece)
            total += len(piece)
            on_read(total)
            if size >= WRITE_BYTES:
                yield b"".join(held)
                held, size = [], 0
    if held:
        yield b"".join(held)
