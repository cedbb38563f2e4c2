"""Image archives into containerd: what `layout` finds in them is stored, unpacked and named. Called by `images`.

Layers go from the file to containerd a mebibyte at a time, read in threads; nothing is extracted to disk and no layer is
held in memory. Faults of the archive are `FieldError`, a full disk is `NoSpace`, a lost containerd `Unavailable`.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs
import trio

from mill.containerd import archive, content, layout
from mill.containerd.archive import Opened
from mill.containerd.budget import Claim
from mill.containerd.eviction import OverBudget
from mill.containerd.faults import RpcError, RpcUnavailable
from mill.containerd.layout import ArchivedImage, Member, NameNeeded
from mill.containerd.leases import leased
from mill.containerd.oci import Descriptor
from mill.containerd.progress import Progress
from mill.containerd.pull import (
    EXPECTED,
    Document,
    Puller,
    Resolved,
    all_or_first_failure,
    name_image,
    store_config,
    store_documents,
)
from mill.containerd.stock import Unpacked
from mill.errors import FieldError, NoSpace


async def load(puller: Puller, path: Path, name: str | None) -> list[tuple[str, Unpacked]]:
    """Every image of the archive at *path* with its name; *name* replaces that of the only one."""
    try:
        members = await trio.to_thread.run_sync(archive.scan, path)
        images = layout.read(members, puller.platform, name)
        names = [name for image in images for name in image.names]
        with archive.opened(path) as file:
            async with puller.holds.writing(names):
                with puller.budget.claim() as claim:
                    async with leased(puller.session, puller.node_id, puller.now) as lease:
                        return await _Loading(puller, lease, claim, file, members).store(images)
    except OverBudget as over:
        raise NoSpace(f"cannot load the archive: {over}") from over
    except NameNeeded as error:
        raise FieldError("name", str(error)) from error
    except (ValueError, content.DigestMismatch) as error:
        raise FieldError("archive", str(error)) from error
    except RpcUnavailable:
        raise
    except RpcError as fault:
        if fault.code == "RESOURCE_EXHAUSTED" or "no space left" in fault.message:
            raise NoSpace("containerd's disk is full; free space or remove images") from fault
        raise FieldError("archive", f"cannot be stored: {fault}") from fault


@attrs.frozen
class _Loading:
    """One archive on its way. Layers are read one after another, in the order they lie in the file."""

    puller: Puller
    lease: str
    claim: Claim
    file: Opened
    members: Mapping[str, Member]

    async def store(self, images: Sequence[ArchivedImage]) -> list[tuple[str, Unpacked]]:
        session, labels = self.puller.session, dict[str, str]()
        blobs = [_blobs(image) for image in images]
        await self.claim.grow({("blob", digest): size for each in blobs for digest, size in each.items()})
        ready: dict[str, trio.Event] = {}
        for image in images:
            snapshotter = self.puller.unpacker.snapshotter
            await store_config(
                session,
                self.lease,
                image.manifest,
                image.config_bytes,
                self.puller.platform,
                snapshotter,
                labels,
            )
            ready |= {
                layer.digest: trio.Event() for layer in image.manifest.layers if layer.digest not in ready
            }
        works = [partial(self._unpack, image, ready) for image in images]
        await all_or_first_failure([partial(self._layers, images, ready), *works], (*EXPECTED, ValueError))
        stored = []
        for image in images:
            resolved = Resolved(tuple(Document(blob, body) for blob, body in image.documents), image.manifest)
            await store_documents(session, self.lease, resolved, labels)
            for name in image.names:
                await name_image(session, name, resolved.target, self.puller.node_id, self.puller.now())
                stored.append((name, Unpacked(resolved.target, image.config, _blobs(image))))
        return stored

    async def _unpack(self, image: ArchivedImage, ready: Mapping[str, trio.Event]) -> None:
        layers, progress = image.manifest.layers, Progress()
        progress.expect(0, [(layer.digest, layer.size) for layer in layers])
        events = [ready[layer.digest] for layer in layers]
        await self.puller.unpacker.unpack(
            self.lease, layers, image.config.diff_ids, events, progress, self.claim.heard
        )

    async def _layers(self, images: Sequence[ArchivedImage], ready: Mapping[str, trio.Event]) -> None:
        wanted = {
            layer.digest: (layer, self.members[image.members[layer.digest]])
            for image in images
            for layer in image.manifest.layers
        }
        for layer, member in sorted(wanted.values(), key=lambda pair: pair[1].position):
            await self._layer(layer, member)
            ready[layer.digest].set()

    async def _layer(self, layer: Descriptor, member: Member) -> None:
        async def source(offset: int) -> AsyncGenerator[bytes, None]:
            while offset < layer.size:
                size = min(archive.READ_BYTES, layer.size - offset)
                data = await trio.to_thread.run_sync(self.file.read_at, member.position + offset, size)
                if not data:
                    raise ValueError("is incomplete: the file ends within a layer")
                offset += len(data)
                yield data

        # The lease in the ref: an archive that is being loaded has no need to wait for a pull of the same layer.
        ref = f"load-{layer.digest}-{self.lease}"
        await content.write(self.puller.session, self.lease, content.Ingest(layer, source, ref, {}))


def _blobs(image: ArchivedImage) -> dict[str, int]:
    """All that it consists of, with their bytes."""
    blobs = {layer.digest: layer.size for layer in (*image.manifest.layers, image.manifest.config)}
    return blobs | {blob.digest: len(body) for blob, body in image.documents}
