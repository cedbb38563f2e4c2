"""What containerd's store holds of images: what a name means, what it takes on the disk, when it was last used.

What a digest means never changes, so that much is remembered; names are asked for. Called by `images` and `budget`.
"""

from collections.abc import Awaitable, Callable, Mapping

import attrs
import structlog
import trio
from google.protobuf.field_mask_pb2 import FieldMask

from mill.containerd import content, oci, rpcs
from mill.containerd.eviction import Kept, Part
from mill.containerd.faults import RpcError, RpcNotFound
from mill.containerd.leases import NODE_LABEL
from mill.containerd.oci import Descriptor, ImageConfig, Index
from mill.containerd.proto import images_pb2
from mill.containerd.registry import MANIFEST_LIMIT_BYTES
from mill.containerd.session import Session
from mill.containerd.unpack import Unpacker

CONFIG_LIMIT_BYTES = 8 * 2**20  # containerd reads configs whole, and so does every tool
USED_LABEL = "mill.used"
"""Of an image: unix seconds of its last use, as text."""
USES_EVERY_S = 60.0
"""Between two writings of last uses; one that a crash takes away is never older."""
_LEAVE_S = 1.0  # for the last of them when milld leaves
_REMEMBERED = 1000  # digests whose documents are kept parsed; a few kB each

log = structlog.get_logger()


@attrs.frozen
class Unpacked:
    """An image ready to run: `target` is what its name points to, `blobs` all that it consists of, with their bytes."""

    target: Descriptor
    config: ImageConfig
    blobs: Mapping[str, int]

    @property
    def chain_id(self) -> str:
        return oci.chain_ids(self.config.diff_ids)[-1]

    @property
    def size(self) -> int:
        return sum(self.blobs.values())


@attrs.define(eq=False)
class Stock:
    """`changes` counts what may have changed the meaning of a name, or taken it away. `now` is the wall clock."""

    session: Session
    unpacker: Unpacker
    platform: oci.Platform
    node_id: str
    now: Callable[[], float]
    let_go: Callable[[], Awaitable[None]] = attrs.field(default=trio.lowlevel.checkpoint, init=False)
    """Called before an image goes: whoever keeps layers of it ahead lets them go."""
    changes: int = attrs.field(default=0, init=False)
    _known: dict[str, Unpacked] = attrs.field(factory=dict, init=False, repr=False)
    _used: dict[str, float] = attrs.field(factory=dict, init=False, repr=False)
    _unwritten: set[str] = attrs.field(factory=set, init=False, repr=False)
    _news: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)

    async def inspect(self, target: Descriptor) -> Unpacked | None:
        """What *target* means on this platform, from the store; None when parts are missing or it cannot run here."""
        known = self._known.get(target.digest)
        if known is not None:
            return known
        blobs, digest = dict[str, int](), target.digest
        try:
            for _ in range(3):  # as deep as a pull goes
                body = await content.read(self.session, digest, MANIFEST_LIMIT_BYTES)
                parsed = oci.parse_manifest(body, target.media_type if digest == target.digest else "")
                blobs[digest] = len(body)
                if not isinstance(parsed, Index):
                    break
                digest = oci.choose(parsed.manifests, self.platform).digest
            else:
                return None
            config = oci.parse_config(
                await content.read(self.session, parsed.config.digest, CONFIG_LIMIT_BYTES)
            )
            oci.check_runs_on(config, parsed, self.platform)
        except (RpcNotFound, ValueError):
            return None
        blobs |= {blob.digest: blob.size for blob in (parsed.config, *parsed.layers)}
        inspected = Unpacked(target, config, blobs)
        self.remember(inspected)
        return inspected

    def remember(self, image: Unpacked) -> None:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[image.target.digest] = image

    async def kept(self) -> list[Kept]:
        """Every image that this node has put there, with all that it takes."""
        request = images_pb2.ListImagesRequest(filters=[f'labels."{NODE_LABEL}"=={self.node_id}'])
        listed = await self.session.call(rpcs.IMAGES_LIST, request)
        return [Kept(image.name, self._last_use(image), await self._parts(image)) for image in listed.images]

    async def _parts(self, image: images_pb2.Image) -> dict[Part, int]:
        inspected = await self.inspect(target_of(image))
        if inspected is None:
            return {}
        parts = {("blob", digest): size for digest, size in inspected.blobs.items()}
        for chain_id in oci.chain_ids(inspected.config.diff_ids):
            parts["snapshot", chain_id] = await self.unpacker.usage(chain_id)
        return parts

    async def delete(self, name: str) -> None:
        """With the garbage collection that frees what only this name kept, however long that takes."""
        self.changes += 1
        await self.let_go()
        request = images_pb2.DeleteImageRequest(name=name, sync=True)
        await self.session.call(rpcs.IMAGES_DELETE, request, timeout_s=None)
        self._used.pop(name, None)
        self._unwritten.discard(name)

    # -- uses ----------------------------------------------------------------------------------------------------------

    def use(self, name: str) -> None:
        """A task is made of it; written down soon."""
        self._used[name] = self.now()
        self._unwritten.add(name)
        self._news.set()

    def _last_use(self, image: images_pb2.Image) -> float:
        try:
            written = float(image.labels.get(USED_LABEL, ""))
        except ValueError:
            written = image.created_at.seconds + image.created_at.nanos / 1e9
        return max(written, self._used.get(image.name, 0.0))

    async def keep_uses(self) -> None:
        """Write last uses down, for ever, and what is left at the end."""
        try:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                await self._write_uses()
                await trio.sleep(USES_EVERY_S)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _LEAVE_S):
                await self._write_uses()

    async def _write_uses(self) -> None:
        while self._unwritten:
            name = self._unwritten.pop()
            image = images_pb2.Image(name=name, labels=used_label(self._used[name]))
            mask = FieldMask(paths=[f"labels.{USED_LABEL}"])
            request = images_pb2.UpdateImageRequest(image=image, update_mask=mask)
            try:
                await self.session.call(rpcs.IMAGES_UPDATE, request)
            except RpcNotFound:
                self._used.pop(name, None)
            except RpcError as fault:
                log.warning("the last use of an image is not written down", image=name, why=fault.message)
            except BaseException:  # milld leaves: one more try follows
                if name in self._used:
                    self._unwritten.add(name)
                raise


def used_label(at: float) -> dict[str, str]:
    return {USED_LABEL: f"{at:.3f}"}


def target_of(image: images_pb2.Image) -> Descriptor:
    return Descriptor(image.target.media_type, image.target.digest, image.target.size)
