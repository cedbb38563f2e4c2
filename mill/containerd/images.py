"""The images of this node: found, pulled, loaded, listed. `serve` runs it; lifecycle and API call the `Images` it starts.

An image counts as present when its name is in containerd's namespace of Mill, its documents are readable and its top
snapshot is there. What a digest means never changes, so that much is remembered; names and snapshots are asked for.
"""

import platform
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path

import attrs
import trio
from google.protobuf.empty_pb2 import Empty

from mill.config import RegistryConfig
from mill.containerd import loading, names, oci, reference, rpcs
from mill.containerd.authorization import Authorizer
from mill.containerd.budget import Budget, limit_of
from mill.containerd.credentials import Credentials
from mill.containerd.faults import RpcError, RpcNotFound, RpcUnavailable
from mill.containerd.flights import REPORT_EVERY_S, Flights, Landed
from mill.containerd.holds import Holds
from mill.containerd.leases import NODE_LABEL, sweep
from mill.containerd.oci import ImageConfig
from mill.containerd.progress import Progress
from mill.containerd.proto import containers_pb2, images_pb2
from mill.containerd.pull import Puller, pull_error
from mill.containerd.reference import Reference
from mill.containerd.registry import Patience, Registry
from mill.containerd.session import Session
from mill.containerd.stock import Stock, Unpacked, target_of
from mill.containerd.transport import STALL_S, open_transport
from mill.containerd.unpack import Unpacker
from mill.errors import Conflict, FieldError, NotFound, PullError
from mill.model import Image, PullPolicy, PullProgress, Size, Time

_RECONNECT_S = 15.0  # how long a pull waits for a containerd that went away, once
_POLL_S = 0.1  # between questions whether it is back
WATCH_EVERY_S = 0.2  # somebody who watches a pull from afar hears of it no more often


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
    stock: Stock

    @property
    def holds(self) -> Holds:
        return self.puller.holds

    @property
    def changes(self) -> int:
        """Counts what may have changed the meaning of a name, or taken it away."""
        return self.stock.changes

    @property
    def _session(self) -> Session:
        return self.puller.session

    async def ensure(
        self, ref: str, policy: PullPolicy, *, on_progress: Callable[[PullProgress], None] = lambda _: None
    ) -> LocalImage:
        """The image, pulled if *policy* wants that; concurrent callers share one pull. Raises `PullError` only.

        *on_progress* is called from this coroutine, at most ten times a second.
        """
        async with aclosing(self._ensure(_parsed(ref), policy, REPORT_EVERY_S)) as told:
            async for news in told:
                if isinstance(news, Landed):
                    return news.result
                on_progress(news)
        raise AssertionError("it ends with an image")

    async def pull(self, ref: str, policy: PullPolicy) -> AsyncGenerator[PullProgress | Image, None]:
        """As `ensure`, told as it goes, five times a second at most, and last the image. Close it when nobody listens."""
        async with aclosing(self._ensure(_parsed(ref), policy, WATCH_EVERY_S)) as told:
            async for news in told:
                yield await self._shown(news.result) if isinstance(news, Landed) else news

    async def _ensure(
        self, ref: Reference, policy: PullPolicy, every_s: float
    ) -> AsyncGenerator[PullProgress | Landed[LocalImage], None]:
        if policy is not PullPolicy.ALWAYS or ref.digest:  # what a digest means no registry can change
            try:
                found = await self._again_if_away(partial(self._find, ref))
            except RpcError as fault:
                raise pull_error(ref, fault) from fault
            if found is not None:
                yield Landed(found)
                return
            if policy is PullPolicy.NEVER:
                raise PullError(
                    "not_found",
                    f"{ref} is not on this node and pull is 'never': load it with mill images load FILE, or pull it with mill images pull",
                )
        key = (ref, PullPolicy.ALWAYS)
        if policy is PullPolicy.MISSING and not self.flights.under_way(
            key
        ):  # it serves those who want less, too
            key = (ref, policy)
        async with aclosing(self.flights.watch(key, partial(self._pull, ref), every_s)) as told:
            async for news in told:
                yield news

    async def find(self, ref: str) -> LocalImage | None:
        """The image if it could be started from now, which it stays for a moment. Asks containerd, never the network."""
        parsed = _parsed(ref)
        self.holds.found(parsed.normalised)
        return await self._find(parsed)

    def use(self, ref: str) -> None:
        """A task is made of it: it is among the last to be removed for want of room."""
        self.stock.use(ref)

    async def load(self, archive: Path, *, name: str | None = None) -> list[Image]:
        """Every image of an OCI or Docker archive, unpacked and named. `FieldError` for ``archive`` or ``name``."""
        loaded = await loading.load(self.puller, archive, name)
        self.stock.changes += 1
        return [
            Image(ref, image.target.digest, Size(image.size), Time(self.puller.now()))
            for ref, image in loaded
        ]

    async def list(self) -> list[Image]:
        """Every image by name; the size of one whose documents are gone is 0."""
        listed = await self._session.call(rpcs.IMAGES_LIST, images_pb2.ListImagesRequest())
        return [await self._described(image) for image in sorted(listed.images, key=lambda i: i.name)]

    async def names(self) -> set[str]:
        """Of every image."""
        listed = await self._session.call(rpcs.IMAGES_LIST, images_pb2.ListImagesRequest())
        return {image.name for image in listed.images}

    async def _described(self, image: images_pb2.Image) -> Image:
        inspected = await self.stock.inspect(target_of(image))
        created = Time(image.created_at.seconds + image.created_at.nanos / 1e9)
        return Image(image.name, image.target.digest, Size(inspected.size if inspected else 0), created)

    async def _shown(self, image: LocalImage) -> Image:
        """As a listing has it."""
        try:
            answer = await self._session.call(rpcs.IMAGES_GET, images_pb2.GetImageRequest(name=image.ref))
            return await self._described(answer.image)
        except RpcError as fault:
            raise pull_error(image.ref, fault) from fault

    async def remove(self, ref: str) -> None:
        """Forget the name; what nothing else needs is gone once it returns. `FieldError`, `NotFound`, `Conflict`."""
        try:
            name = reference.parse(ref).normalised
        except ValueError as error:
            raise FieldError("ref", str(error)) from None
        await self.holds.wait_known()
        async with self.holds.removing(name):
            if users := self.holds.tasks_of(name) or await self._foreign_users(name):
                raise Conflict(f"{name} is used by {', '.join(users)}: kill what uses it first")
            if self.holds.written(name):
                raise Conflict(f"{name} is being pulled or loaded: remove it when that is over")
            try:
                await self.stock.delete(name)
            except RpcNotFound:
                raise NotFound(
                    f"no image {name} is on this node; 'mill images' lists those that are"
                ) from None

    async def _foreign_users(self, name: str) -> Sequence[str]:
        """Containers of the image that are not this node's: another milld on this containerd, or another client."""
        request = containers_pb2.ListContainersRequest(filters=[f'image=="{name}"'])
        listed = await self._session.call(rpcs.CONTAINERS_LIST, request)
        return [one.id for one in listed.containers if one.labels.get(NODE_LABEL) != self.puller.node_id]

    async def _find(self, ref: Reference) -> LocalImage | None:
        await self.holds.settled(ref.normalised)
        image = await names.image_of(self._session, ref)
        if image is None:
            return None
        inspected = await self.stock.inspect(target_of(image))
        if inspected is None or not await self.puller.unpacker.there(inspected.chain_id):
            return None
        return _local(
            image.name, inspected
        )  # the name it is kept by, which for a digest may be another than *ref*

    async def _pull(self, ref: Reference, progress: Progress) -> LocalImage:
        async with self.holds.writing([ref.normalised]):
            try:
                pulled = await self.puller.pull(ref, progress)
            except PullError as error:
                if not isinstance(error.__cause__, RpcUnavailable):
                    raise
                await self._wait_back()
                pulled = await self.puller.pull(ref, progress)
        self.stock.changes += 1
        self.stock.remember(pulled)
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


async def serve(
    session: Session,
    *,
    node_id: str,
    now: Callable[[], float],
    registries: Mapping[str, RegistryConfig],
    docker_config: Path | None = None,
    max_bytes: int | None = None,
    patience: Patience = Patience(),  # noqa: B008 -- a frozen value
    stall_s: float = STALL_S,
    task_status: trio.TaskStatus[Images] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Own the pulls. *max_bytes* is for all images together (None: most of the disk, 0: no limit). Leases that an earlier milld of this node left are removed first."""
    await sweep(session, node_id)
    credentials = Credentials(registries, docker_config)
    opened = open_transport(authorities=credentials.hosts.authorities(), stall_s=stall_s)
    async with opened as transport, trio.open_nursery() as nursery:
        registry = Registry(transport, Authorizer(transport, credentials, now), now, patience)
        host = oci.platform_of(platform.machine())
        unpacker = Unpacker(session)
        stock = Stock(session, unpacker, host, node_id, now)
        budget = Budget(stock, Holds(), await limit_of(session, max_bytes))
        puller = Puller(session, registry, unpacker, host, node_id, now, budget)
        nursery.start_soon(stock.keep_uses)
        nursery.start_soon(budget.trim)
        task_status.started(Images(puller, Flights(nursery), stock))
        await trio.sleep_forever()


def _parsed(ref: str) -> Reference:
    try:
        return reference.parse(ref)
    except ValueError as error:
        raise PullError("invalid", str(error)) from error


def _local(name: str, image: Unpacked) -> LocalImage:
    return LocalImage(name, image.target.digest, image.chain_id, image.config)
