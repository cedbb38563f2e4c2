"""The images of this node: found, pulled, loaded, listed. `serve` runs it; lifecycle and API call the `Images` it starts.

An image counts as present when its name is in containerd's namespace of Mill, its documents are readable and its top
snapshot is there. What a digest means never changes, so that much is remembered; names and snapshots are asked for.
"""

import platform
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import attrs
import trio
from google.protobuf.empty_pb2 import Empty

from mill.config import RegistryConfig
from mill.containerd import content, loading, names, oci, reference, rpcs
from mill.containerd.authorization import Authorizer
from mill.containerd.credentials import Credentials
from mill.containerd.faults import RpcError, RpcNotFound, RpcUnavailable
from mill.containerd.flights import Flights, Progress
from mill.containerd.leases import sweep
from mill.containerd.oci import Descriptor, ImageConfig, Index
from mill.containerd.proto import images_pb2
from mill.containerd.pull import CONFIG_LIMIT_BYTES, Puller, Unpacked, pull_error
from mill.containerd.reference import Reference
from mill.containerd.registry import MANIFEST_LIMIT_BYTES, Patience, Registry
from mill.containerd.session import Session
from mill.containerd.transport import STALL_S, open_transport
from mill.containerd.unpack import Unpacker
from mill.errors import PullError
from mill.model import Image, PullPolicy, PullProgress, Size, Time

_RECONNECT_S = 15.0  # how long a pull waits for a containerd that went away, once
_POLL_S = 0.1  # between questions whether it is back
_REMEMBERED = 1000  # digests whose documents are kept parsed; a few kB each


@attrs.frozen
class LocalImage:
    """An image that containers can be made of: `chain_id` is the snapshot to prepare theirs on.

    Of one that was pulled: when its last layer was there, and when the first was unpacked, if any had to be.
    """

    ref: str
    digest: str
    chain_id: str
    config: ImageConfig
    fetched: Time | None = attrs.field(default=None, eq=False)
    unpack_began: Time | None = attrs.field(default=None, eq=False)


@attrs.define(eq=False)
class Images:
    puller: Puller
    flights: Flights[LocalImage]
    _known: dict[str, Unpacked] = attrs.field(factory=dict, init=False, repr=False)

    @property
    def _session(self) -> Session:
        return self.puller.session

    async def ensure(
        self, ref: str, policy: PullPolicy, *, on_progress: Callable[[PullProgress], None] = lambda _: None
    ) -> LocalImage:
        """The image, pulled if *policy* wants that; concurrent callers share one pull. Raises `PullError` only.

        *on_progress* is called from this coroutine, at most ten times a second.
        """
        parsed = _parsed(ref)
        if policy is not PullPolicy.ALWAYS or parsed.digest:  # what a digest means no registry can change
            try:
                found = await self._again_if_away(partial(self._find, parsed))
            except RpcError as fault:
                raise pull_error(parsed, fault) from fault
            if found is not None:
                return found
            if policy is PullPolicy.NEVER:
                raise PullError(
                    "not_found",
                    f"{parsed} is not on this node and pull is 'never': load it with mill images load FILE, or pull it",
                )
        key = (parsed, PullPolicy.ALWAYS)
        if policy is PullPolicy.MISSING and not self.flights.under_way(
            key
        ):  # it serves those who want less, too
            key = (parsed, policy)
        return await self.flights.join(key, partial(self._pull, parsed), on_progress)

    async def find(self, ref: str) -> LocalImage | None:
        """The image if it could be started from now. Asks containerd, never the network."""
        return await self._find(_parsed(ref))

    async def load(self, archive: Path, *, name: str | None = None) -> list[Image]:
        """Every image of an OCI or Docker archive, unpacked and named. `FieldError` for ``archive`` or ``name``."""
        loaded = await loading.load(self.puller, archive, name)
        return [
            Image(ref, image.target.digest, Size(image.size), Time(self.puller.now()))
            for ref, image in loaded
        ]

    async def list(self) -> list[Image]:
        """Every image by name; the size of one whose documents are gone is 0."""
        listed = await self._session.call(rpcs.IMAGES_LIST, images_pb2.ListImagesRequest())
        images = []
        for image in sorted(listed.images, key=lambda i: i.name):
            inspected = await self._inspect(_target(image))
            created = Time(image.created_at.seconds + image.created_at.nanos / 1e9)
            size = Size(inspected.size if inspected else 0)
            images.append(Image(image.name, image.target.digest, size, created))
        return images

    async def _find(self, ref: Reference) -> LocalImage | None:
        image = await names.image_of(self._session, ref)
        if image is None:
            return None
        inspected = await self._inspect(_target(image))
        if inspected is None or not await self.puller.unpacker.there(inspected.chain_id):
            return None
        return _local(
            image.name, inspected
        )  # the name it is kept by, which for a digest may be another than *ref*

    async def _pull(self, ref: Reference, progress: Progress) -> LocalImage:
        try:
            pulled = await self.puller.pull(ref, progress)
        except PullError as error:
            if not isinstance(error.__cause__, RpcUnavailable):
                raise
            await self._wait_back()
            pulled = await self.puller.pull(ref, progress)
        self._remember(pulled)
        local = _local(ref.normalised, pulled)
        return attrs.evolve(local, fetched=progress.fetched, unpack_began=progress.unpack_began)

    async def _again_if_away(self, ask: Callable[[], Awaitable[LocalImage | None]]) -> LocalImage | None:
        try:
            return await ask()
        except RpcUnavailable:
            await self._wait_back()
            return await ask()

    async def _wait_back(self) -> None:
        """Until containerd answers again, or long enough. That the session counts as connected may be old news."""
        with trio.move_on_after(_RECONNECT_S):
            while True:
                await self._session.wait_connected()
                with suppress(RpcError):
                    await self._session.call(rpcs.VERSION, Empty())
                    return
                await trio.sleep(_POLL_S)

    async def _inspect(self, target: Descriptor) -> Unpacked | None:
        """What *target* means on this platform, from the store; None when parts are missing or it cannot run here."""
        known = self._known.get(target.digest)
        if known is not None:
            return known
        size, digest = 0, target.digest
        try:
            for _ in range(3):  # as deep as a pull goes
                body = await content.read(self._session, digest, MANIFEST_LIMIT_BYTES)
                parsed = oci.parse_manifest(body, target.media_type if digest == target.digest else "")
                size += len(body)
                if not isinstance(parsed, Index):
                    break
                digest = oci.choose(parsed.manifests, self.puller.platform).digest
            else:
                return None
            config = oci.parse_config(
                await content.read(self._session, parsed.config.digest, CONFIG_LIMIT_BYTES)
            )
            oci.check_runs_on(config, parsed, self.puller.platform)
        except (RpcNotFound, ValueError):
            return None
        size += parsed.config.size + sum({layer.digest: layer.size for layer in parsed.layers}.values())
        inspected = Unpacked(target, config, oci.chain_ids(config.diff_ids)[-1], size)
        self._remember(inspected)
        return inspected

    def _remember(self, image: Unpacked) -> None:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[image.target.digest] = image


async def serve(
    session: Session,
    *,
    node_id: str,
    now: Callable[[], float],
    registries: Mapping[str, RegistryConfig],
    docker_config: Path | None = None,
    patience: Patience = Patience(),  # noqa: B008 -- a frozen value
    stall_s: float = STALL_S,
    task_status: trio.TaskStatus[Images] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Own the pulls. Leases that an earlier milld of this node left are removed first."""
    await sweep(session, node_id)
    credentials = Credentials(registries, docker_config)
    opened = open_transport(authorities=credentials.hosts.authorities(), stall_s=stall_s)
    async with opened as transport, trio.open_nursery() as nursery:
        registry = Registry(transport, Authorizer(transport, credentials, now), now, patience)
        host = oci.platform_of(platform.machine())
        puller = Puller(session, registry, Unpacker(session), host, node_id, now)
        task_status.started(Images(puller, Flights(nursery)))
        await trio.sleep_forever()


def _parsed(ref: str) -> Reference:
    try:
        return reference.parse(ref)
    except ValueError as error:
        raise PullError("invalid", str(error)) from error


def _local(name: str, image: Unpacked) -> LocalImage:
    return LocalImage(name, image.target.digest, image.chain_id, image.config)


def _target(image: images_pb2.Image) -> Descriptor:
    return Descriptor(image.target.media_type, image.target.digest, image.target.size)
