"""Layers into snapshots: each prepared on its parent, applied by containerd, committed under its chain id.

Called by `pull` and `load`. A chain id is unpacked once at a time, however many images share it. Leaves no half-made
snapshot behind, whatever ends it.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

import attrs
import structlog
import trio

from mill.containerd import content, oci, rpcs
from mill.containerd.eviction import OverBudget, Parts
from mill.containerd.faults import RpcAlreadyExists, RpcError, RpcNotFound
from mill.containerd.oci import Descriptor
from mill.containerd.progress import Progress
from mill.containerd.proto import diff_pb2, leases_pb2, snapshots_pb2, types_pb2
from mill.containerd.session import Session
from mill.containerd.turns import Turns

UNCOMPRESSED_LABEL = "containerd.io/uncompressed"
_SNAPSHOT_REF_LABEL = "containerd.io/snapshot.ref"
_REMOVE_TIMEOUT_S = 10.0

LOOK_EVERY_S = 0.5  # at what a snapshot has grown to; a fast disk writes a gibibyte meanwhile
_LOOK_SHARE = 4.0  # the pause is at least so many times as long as the look, which counts every file
_REMEMBERED = 10_000  # sizes of finished snapshots, about 100 bytes each

Grow = Callable[[Parts], Awaitable[None]]

log = structlog.get_logger()


@attrs.frozen
class Step:
    """One layer to unpack: the chain id of what lies below it (empty: nothing), its own, its blob, and what that unpacks to."""

    parent: str
    chain_id: str
    layer: Descriptor
    diff_id: str


@attrs.define(eq=False)
class Unpacker:
    """One per session: it knows what is being unpacked."""

    session: Session
    _turns: Turns = attrs.field(factory=Turns, init=False)
    _usage: dict[str, int] = attrs.field(factory=dict, init=False, repr=False)

    @property
    def snapshotter(self) -> str:
        return self.session.features.snapshotter

    async def there(self, chain_id: str) -> bool:
        """Whether the snapshot of *chain_id* is ready for use."""
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=self.snapshotter, key=chain_id)
        try:
            await self.session.call(rpcs.SNAPSHOTS_STAT, request)
        except RpcNotFound:
            return False
        return True

    async def unpack(
        self,
        lease: str,
        layers: Sequence[Descriptor],
        diff_ids: Sequence[str],
        ready: Sequence[trio.Event],
        progress: Progress,
        grow: Grow | None,
    ) -> str:
        """All *layers*, bottom first, each as soon as its event in *ready* says that its blob is there; the top's chain id.

        *grow*, where somebody counts, hears of the room that snapshots take, also while they still grow; it may raise.
        """
        chain = oci.chain_ids(diff_ids)
        parent = ""
        for layer, diff_id, chain_id, event in zip(layers, diff_ids, chain, ready, strict=True):
            async with self._turns.of(chain_id):
                found = await self._keep(lease, chain_id)
                if not found:
                    await event.wait()
                    progress.unpacking(layer.digest)
                    await self._layer(lease, Step(parent, chain_id, layer, diff_id), grow)
                if grow is not None:
                    await grow({("snapshot", chain_id): await self.usage(chain_id)})
                progress.unpacked(layer.digest, made=not found)
            parent = chain_id
        return parent

    async def _keep(self, lease: str, chain_id: str) -> bool:
        """Whether the snapshot is there; if so the lease keeps it from now on."""
        resource = leases_pb2.Resource(id=chain_id, type=f"snapshots/{self.snapshotter}")
        await self.session.call(
            rpcs.LEASES_ADD_RESOURCE, leases_pb2.AddResourceRequest(id=lease, resource=resource)
        )
        return await self.there(chain_id)

    async def usage(self, chain_id: str) -> int:
        """Bytes that the finished snapshot takes beside its parent; 0 when it is not there."""
        if chain_id not in self._usage:
            try:
                size = await self._size_of(chain_id)
            except RpcNotFound:
                return 0
            if len(self._usage) >= _REMEMBERED:
                self._usage.clear()
            self._usage[chain_id] = size
        return self._usage[chain_id]

    async def _size_of(self, key: str) -> int:
        request = snapshots_pb2.UsageRequest(snapshotter=self.snapshotter, key=key)
        return (await self.session.call(rpcs.SNAPSHOTS_USAGE, request)).size

    async def _layer(self, lease: str, step: Step, grow: Grow | None) -> None:
        key = f"extract-{lease} {step.chain_id}"
        try:
            prepared = await self.session.call(
                rpcs.SNAPSHOTS_PREPARE,
                snapshots_pb2.PrepareSnapshotRequest(
                    snapshotter=self.snapshotter,
                    key=key,
                    parent=step.parent,
                    labels={_SNAPSHOT_REF_LABEL: step.chain_id},
                ),
                lease=lease,
            )
            apply = partial(
                self.session.call,
                rpcs.DIFF_APPLY,
                diff_pb2.ApplyRequest(diff=descriptor(step.layer), mounts=prepared.mounts),
                timeout_s=None,
                lease=lease,
            )
            watch = None if grow is None else partial(self._watch, key, step.chain_id, grow)
            applied = await _watched(apply, watch)
            if applied.applied.digest != step.diff_id:
                raise content.DigestMismatch(  # noqa: TRY301 -- the snapshot must go first
                    f"layer {step.layer.digest} does not unpack to what the image's config says ({step.diff_id})"
                )
            await self._commit(lease, key, step.chain_id)
        except BaseException:
            await self._remove(key)
            raise
        await content.add_labels(self.session, step.layer.digest, {UNCOMPRESSED_LABEL: step.diff_id})

    async def _watch(self, key: str, chain_id: str, grow: Grow) -> None:
        """A layer may unpack to a thousand times its size, and nothing but the disk tells."""
        pause_s = LOOK_EVERY_S
        while True:
            await trio.sleep(pause_s)
            began = trio.current_time()
            with suppress(
                RpcError
            ):  # the next look may fare better; what is really wrong, the unpacking meets too
                await grow({("snapshot", chain_id): await self._size_of(key)})
            pause_s = max(LOOK_EVERY_S, _LOOK_SHARE * (trio.current_time() - began))

    async def _commit(self, lease: str, key: str, chain_id: str) -> None:
        request = snapshots_pb2.CommitSnapshotRequest(snapshotter=self.snapshotter, name=chain_id, key=key)
        try:
            await self.session.call(rpcs.SNAPSHOTS_COMMIT, request, timeout_s=None, lease=lease)
        except RpcAlreadyExists:  # another client of this containerd was quicker
            await self._remove(key)

    async def _remove(self, key: str) -> None:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=self.snapshotter, key=key)
        with trio.CancelScope(shield=True), suppress(RpcNotFound):
            try:
                await self.session.call(rpcs.SNAPSHOTS_REMOVE, request, timeout_s=_REMOVE_TIMEOUT_S)
            except RpcNotFound:
                raise
            except RpcError as fault:  # the lease goes next, so garbage collection will take it
                log.warning("half-unpacked snapshot not removed", key=key, error=str(fault))


async def _watched(
    apply: Callable[[], Awaitable[diff_pb2.ApplyResponse]], watch: Callable[[], Awaitable[None]] | None
) -> diff_pb2.ApplyResponse:
    """What *apply* gives, or why *watch* has ended it."""
    if watch is None:
        return await apply()
    failures: list[Exception] = []
    applied: list[diff_pb2.ApplyResponse] = []

    async def run(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (OverBudget, RpcError) as failure:
            failures.append(failure)
        nursery.cancel_scope.cancel()

    async def unpack() -> None:
        applied.append(await apply())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, watch)
        nursery.start_soon(run, unpack)
    if failures:
        raise failures[0]
    return applied[0]


def descriptor(blob: Descriptor) -> types_pb2.Descriptor:
    """As containerd takes it."""
    return types_pb2.Descriptor(media_type=blob.media_type, digest=blob.digest, size=blob.size)
