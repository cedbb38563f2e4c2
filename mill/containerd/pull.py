"""One pull, from the registry into containerd: manifest, config, layers side by side, snapshots, and last the name.

The steps are those that containerd's own client takes, so that garbage collection, `ctr` and other clients understand the
result. Called by `images`, which sees to it that an image is pulled once at a time. Failures come out as `PullError`.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import attrs
import structlog
import trio
from google.protobuf.field_mask_pb2 import FieldMask

from mill.containerd import content, oci, rpcs
from mill.containerd.budget import Budget, Claim
from mill.containerd.eviction import OverBudget
from mill.containerd.faults import RpcAlreadyExists, RpcError, RpcNotFound, RpcUnavailable
from mill.containerd.holds import Holds
from mill.containerd.leases import NODE_LABEL, leased
from mill.containerd.oci import Descriptor, ImageConfig, Index, Manifest
from mill.containerd.progress import Progress
from mill.containerd.proto import content_pb2, images_pb2
from mill.containerd.reference import Reference
from mill.containerd.registry import Fetched, Registry
from mill.containerd.session import Session
from mill.containerd.stock import CONFIG_LIMIT_BYTES, USED_LABEL, Unpacked, used_label
from mill.containerd.turns import Turns
from mill.containerd.unpack import Unpacker, descriptor
from mill.errors import PullError
from mill.model import Time

_DOWNLOADS = 3  # layers of one image at a time, as Docker does it
_SOURCE_LABEL = "containerd.io/distribution.source."
_REF_LABEL = "containerd.io/gc.ref."

EXPECTED = (PullError, RpcError, content.DigestMismatch, OverBudget)
"""What may go wrong in the parts of a pull."""

log = structlog.get_logger()


@attrs.frozen
class Document:
    """A manifest or an index with its bytes."""

    blob: Descriptor
    body: bytes


@attrs.frozen
class Resolved:
    """What a reference turned out to mean on this platform: the documents from the target down, parsed."""

    documents: tuple[Document, ...]
    manifest: Manifest

    @property
    def target(self) -> Descriptor:
        return self.documents[0].blob


@attrs.frozen
class _Work:
    """What the parts of one pull share."""

    lease: str
    claim: Claim
    progress: Progress


@attrs.frozen
class Source:
    """One registry that `image` may come from: `ref` is its name there, which of a mirror has the mirror's host."""

    registry: Registry
    ref: Reference
    image: Reference


@attrs.define(eq=False)
class Puller:
    """Everything that pulls have in common. `now` is the wall clock."""

    session: Session
    registry: Registry
    unpacker: Unpacker
    platform: oci.Platform
    node_id: str
    now: Callable[[], float]
    budget: Budget
    _turns: Turns = attrs.field(factory=Turns, init=False)

    @property
    def holds(self) -> Holds:
        return self.budget.holds

    async def pull(self, ref: Reference, progress: Progress) -> Unpacked:
        """From the mirrors of its registry in their order, and when they all fail from the registry itself."""
        failed: list[str] = []
        for mirror in self.registry.mirrors(ref):
            try:
                return await self._pull(Source(self.registry.in_haste(), mirror, ref), progress)
            except PullError as error:
                if error.detail == "disk" or isinstance(error.__cause__, RpcUnavailable):
                    raise  # ours, and no registry can mend it
                failed.append(f"{mirror.pull_host} ({error.detail})")
                tell = log.info if error.detail == "not_found" else log.warning
                tell("mirror failed, asking the next", image=str(ref), why=error.message)
        try:
            return await self._pull(Source(self.registry, ref, ref), progress)
        except PullError as error:
            if not failed:
                raise
            message = f"{error.message}; its mirrors failed before it: {', '.join(failed)}"
            raise PullError(error.detail, message) from error.__cause__

    async def _pull(self, source: Source, progress: Progress) -> Unpacked:
        ref = source.ref
        try:
            resolved = await self._resolve(source)
            with self.budget.claim() as claim:
                async with leased(self.session, self.node_id, self.now) as lease:
                    return await self._fetch(source, resolved, _Work(lease, claim, progress))
        except OverBudget as over:
            raise PullError("disk", f"cannot pull {ref}: {over}") from over
        except content.DigestMismatch as mismatch:
            raise PullError("digest", f"cannot pull {ref} from {ref.pull_host}: {mismatch}") from mismatch
        except RpcError as fault:
            raise pull_error(ref, fault) from fault

    async def _resolve(self, source: Source) -> Resolved:
        """Ask the registry; an index leads to the manifest of this platform."""
        documents: list[Document] = []
        digest = None
        for _ in range(3):  # an index of indexes is the most that anybody builds
            fetched = await source.registry.manifest(source.ref, digest)
            try:
                parsed = oci.parse_manifest(fetched.body, fetched.content_type)
                documents.append(_document(fetched, parsed))
                if isinstance(parsed, Manifest):
                    return Resolved(tuple(documents), parsed)
                digest = oci.choose(parsed.manifests, self.platform).digest
            except ValueError as error:
                raise PullError("invalid", f"cannot pull {source.ref}: {error}") from error
        raise PullError("invalid", f"cannot pull {source.ref}: its index leads to an index again and again")

    async def _fetch(self, source: Source, resolved: Resolved, work: _Work) -> Unpacked:
        manifest, lease, progress = resolved.manifest, work.lease, work.progress
        layers = tuple({layer.digest: layer for layer in manifest.layers}.values())
        small = (manifest.config, *(document.blob for document in resolved.documents))
        blobs = {blob.digest: blob.size for blob in (*layers, *small)}
        progress.expect(sum(blobs.values()), [(layer.digest, layer.size) for layer in layers])
        await work.claim.grow({("blob", digest): size for digest, size in blobs.items()})
        config = await self._config(source, manifest, lease)
        progress.other = sum(blob.size for blob in small)
        ready = {layer.digest: trio.Event() for layer in layers}
        slots = trio.CapacityLimiter(_DOWNLOADS)

        async def layer(blob: Descriptor) -> None:
            async with slots:
                await self._layer(source, blob, lease, progress)
            progress.fetched = Time(self.now())
            ready[blob.digest].set()

        def on_unpack() -> None:
            progress.unpack_began = progress.unpack_began or Time(self.now())

        progress.on_unpack = on_unpack
        unpacked = partial(
            self.unpacker.unpack,
            lease,
            manifest.layers,
            config.diff_ids,
            [ready[x.digest] for x in manifest.layers],
            progress,
            work.claim.heard,
        )
        try:
            await all_or_first_failure([partial(layer, blob) for blob in layers] + [unpacked])
        except RpcError as fault:
            if _is_full(fault):
                await self._give_up(layers)
            raise
        await store_documents(self.session, lease, resolved, source_label(source.image))
        await name_image(self.session, source.image.normalised, resolved.target, self.node_id, self.now())
        return Unpacked(resolved.target, config, blobs)

    async def _config(self, source: Source, manifest: Manifest, lease: str) -> ImageConfig:
        """The image's config, read from the store if it is there; stored, and labelled to hold on to its snapshots."""
        try:
            data = await content.read(self.session, manifest.config.digest, CONFIG_LIMIT_BYTES)
        except (RpcNotFound, ValueError):
            data = await source.registry.small_blob(source.ref, manifest.config, CONFIG_LIMIT_BYTES)
        try:
            return await store_config(
                self.session,
                lease,
                manifest,
                data,
                self.platform,
                self.unpacker.snapshotter,
                source_label(source.image),
            )
        except ValueError as error:
            raise PullError("invalid", f"cannot pull {source.ref}: {error}") from error

    async def _give_up(self, layers: Sequence[Descriptor]) -> None:
        """What was fetched by half is no use to a full disk, and would stay on it for a day."""
        for blob in layers:
            if not self._turns.of(blob.digest).locked():
                with suppress(RpcError):
                    request = content_pb2.AbortRequest(ref=_ingest_ref(blob))
                    await self.session.call(rpcs.CONTENT_ABORT, request)

    async def _layer(self, source: Source, blob: Descriptor, lease: str, progress: Progress) -> None:
        def pieces(offset: int) -> AsyncGenerator[bytes, None]:
            progress.fetching(blob.digest)
            return source.registry.blob(source.ref, blob, offset)

        on_bytes = partial(progress.came, blob.digest)
        ingest = content.Ingest(
            blob, pieces, _ingest_ref(blob), source_label(source.image), on_bytes, resumable=True
        )
        async with self._turns.of(
            blob.digest
        ):  # waiting here is quicker than for containerd's lock on the ref
            await content.write(self.session, lease, ingest)
        progress.stored(blob.digest)


async def store_config(
    session: Session,
    lease: str,
    manifest: Manifest,
    data: bytes,
    platform: oci.Platform,
    snapshotter: str,
    labels: Mapping[str, str],
) -> ImageConfig:
    """Parse and check *data*, then have it in the store. `ValueError` when the image cannot run here."""
    config = oci.parse_config(data)
    oci.check_runs_on(config, manifest, platform)
    held = {f"{_REF_LABEL}snapshot.{snapshotter}": oci.chain_ids(config.diff_ids)[-1]}
    await content.write_bytes(session, lease, manifest.config, data, labels={**labels, **held})
    return config


async def store_documents(
    session: Session, lease: str, resolved: Resolved, labels: Mapping[str, str]
) -> None:
    """Manifest and index, each labelled with what garbage collection must keep for it."""
    manifest = resolved.manifest
    held = {f"{_REF_LABEL}content.config": manifest.config.digest}
    held |= {f"{_REF_LABEL}content.l.{n}": layer.digest for n, layer in enumerate(manifest.layers)}
    for document in reversed(resolved.documents):
        await content.write_bytes(session, lease, document.blob, document.body, labels={**labels, **held})
        held = {f"{_REF_LABEL}content.m.0": document.blob.digest}


async def name_image(session: Session, name: str, target: Descriptor, node_id: str, now: float) -> None:
    """Have *name* point to *target*, whatever it pointed to before; that counts as a use."""
    labels = {NODE_LABEL: node_id, **used_label(now)}
    image = images_pb2.Image(name=name, target=descriptor(target), labels=labels)
    try:
        await session.call(rpcs.IMAGES_CREATE, images_pb2.CreateImageRequest(image=image))
    except RpcAlreadyExists:
        mask = FieldMask(paths=["target", f"labels.{USED_LABEL}"])
        await session.call(rpcs.IMAGES_UPDATE, images_pb2.UpdateImageRequest(image=image, update_mask=mask))


async def all_or_first_failure(
    works: Sequence[Callable[[], Awaitable[object]]], expected: tuple[type[Exception], ...] = EXPECTED
) -> None:
    """Run all at once; the first that fails in an *expected* way ends the others and is raised, alone."""
    failures: list[Exception] = []

    async def run(work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except expected as failure:
            failures.append(failure)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(run, work)
    if failures:
        raise failures[0]


def pull_error(ref: Reference | str, fault: RpcError) -> PullError:
    """What a refusal of containerd means for the pull of *ref*."""
    if _is_full(fault):
        return PullError("disk", f"cannot pull {ref}: containerd's disk is full; free space or remove images")
    if isinstance(fault, RpcUnavailable):
        return PullError("network", f"cannot pull {ref}: containerd went away meanwhile ({fault.message})")
    return PullError("invalid", f"cannot pull {ref}: {fault}")


def _is_full(fault: RpcError) -> bool:
    return fault.code == "RESOURCE_EXHAUSTED" or "no space left" in fault.message


def _ingest_ref(layer: Descriptor) -> str:
    return f"layer-{layer.digest}"


def source_label(ref: Reference) -> dict[str, str]:
    return {_SOURCE_LABEL + ref.host: ref.repository}


def _document(fetched: Fetched, parsed: Manifest | Index) -> Document:
    return Document(Descriptor(parsed.media_type, fetched.digest, len(fetched.body)), fetched.body)
