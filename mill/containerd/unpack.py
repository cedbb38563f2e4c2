"""Layers into snapshots: each prepared on its parent, applied by containerd, committed under its chain id.

Called by `pull` and `load`. A chain id is unpacked once at a time, however many images share it. Leaves no half-made
snapshot behind, whatever ends it.
"""

from collections.abc import Sequence
from contextlib import suppress

import attrs
import structlog
import trio

from mill.containerd import content, oci, rpcs
from mill.containerd.faults import RpcAlreadyExists, RpcError, RpcNotFound
from mill.containerd.oci import Descriptor
from mill.containerd.progress import Progress
from mill.containerd.proto import diff_pb2, leases_pb2, snapshots_pb2, types_pb2
from mill.containerd.session import Session
from mill.containerd.turns import Turns

UNCOMPRESSED_LABEL = "containerd.io/uncompressed"
_SNAPSHOT_REF_LABEL = "containerd.io/snapshot.ref"
_REMOVE_TIMEOUT_S = 10.0

log = structlog.get_logger()


@attrs.define(eq=False)
class Unpacker:
    """One per session: it knows what is being unpacked."""

    session: Session
    _turns: Turns = attrs.field(factory=Turns, init=False)

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
    ) -> str:
        """All *layers*, bottom first, each as soon as its event in *ready* says that its blob is there; the top's chain id."""
        chain = oci.chain_ids(diff_ids)
        parent = ""
        for layer, diff_id, chain_id, event in zip(layers, diff_ids, chain, ready, strict=True):
            async with self._turns.of(chain_id):
                found = await self._keep(lease, chain_id)
                if not found:
                    await event.wait()
                    progress.unpacking(layer.digest)
                    await self._layer(lease, parent, chain_id, layer, diff_id)
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

    async def _layer(self, lease: str, parent: str, chain_id: str, layer: Descriptor, diff_id: str) -> None:
        key = f"extract-{lease} {chain_id}"
        try:
            prepared = await self.session.call(
                rpcs.SNAPSHOTS_PREPARE,
                snapshots_pb2.PrepareSnapshotRequest(
                    snapshotter=self.snapshotter,
                    key=key,
                    parent=parent,
                    labels={_SNAPSHOT_REF_LABEL: chain_id},
                ),
                lease=lease,
            )
            applied = await self.session.call(
                rpcs.DIFF_APPLY,
                diff_pb2.ApplyRequest(diff=descriptor(layer), mounts=prepared.mounts),
                timeout_s=None,
                lease=lease,
            )
            if applied.applied.digest != diff_id:
                raise content.DigestMismatch(  # noqa: TRY301 -- the snapshot must go first
                    f"layer {layer.digest} does not unpack to what the image's config says ({diff_id})"
                )
            await self._commit(lease, key, chain_id)
        except BaseException:
            await self._remove(key)
            raise
        await content.add_labels(self.session, layer.digest, {UNCOMPRESSED_LABEL: diff_id})

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


def descriptor(blob: Descriptor) -> types_pb2.Descriptor:
    """As containerd takes it."""
    return types_pb2.Descriptor(media_type=blob.media_type, digest=blob.digest, size=blob.size)
