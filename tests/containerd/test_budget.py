# ruff: noqa: ASYNC110 -- what happens inside containerd has no event to wait for
"""The room that images may take, on a containerd of its own: kept to by removing, refused where that does not help."""

import gzip
import os
import tarfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from mill.containerd import embedded, rpcs
from mill.containerd import session as session_service
from mill.containerd.budget import limit_of
from mill.containerd.holds import FOUND_S
from mill.containerd.images import Images
from mill.containerd.proto import content_pb2, images_pb2
from mill.containerd.session import Session
from mill.errors import Conflict, FieldError, NoSpace, NotFound, PullError
from mill.model import Image, LayerState, PullPolicy, PullProgress
from tests import images, registry
from tests.containerd.faulty import serving
from tests.containerd.stores import (
    ALWAYS,
    MIB,
    MISSING,
    Slow,
    fresh_layer,
    fresh_name,
    nothing_half_made,
    snapshots,
    start_images,
)
from tests.images import Made, OciImage, push

ROOM = 15 * MIB
"""For three images of two mebibytes, which take as much again unpacked."""


@pytest.fixture(scope="module")
def reg() -> Iterator[registry.Registry]:
    with registry.running() as running:
        yield running


@attrs.define
class Clock:
    """Every look at it is a second later than the one before."""

    time: float = attrs.field(factory=time.time)

    def __call__(self) -> float:
        self.time += 1
        return self.time


@attrs.define
class Place:
    """A containerd with nothing in it, and milld's images over it. `live` are the tasks: (id, image)."""

    session: Session
    nursery: trio.Nursery
    live: list[tuple[str, str]] = attrs.field(factory=list)
    now: Clock = attrs.field(factory=Clock)

    async def start(self, max_bytes: int = ROOM, nursery: trio.Nursery | None = None) -> Images:
        made = await start_images(nursery or self.nursery, self.session, now=self.now, max_bytes=max_bytes)
        made.holds.ask_tasks(lambda: self.live)
        return made

    async def blobs(self) -> set[str]:
        answers = await self.session.collect(rpcs.CONTENT_LIST, content_pb2.ListContentRequest())
        return {info.digest for answer in answers for info in answer.info}


@pytest.fixture
async def place(data_dir: Path, nursery: trio.Nursery) -> Place:
    socket: str = await nursery.start(embedded.serve, data_dir)
    session: Session = await nursery.start(session_service.serve, socket)
    return Place(session, nursery)


async def pushed(reg: registry.Registry, size: int = 2 * MIB) -> str:
    name = fresh_name()
    await push(OciImage([fresh_layer(size)]), reg.host, name, "v1")
    return f"{reg.host}/{name}:v1"


async def names(store: Images) -> set[str]:
    return {image.ref for image in await store.list()}


async def test_the_longest_unused_image_makes_room_with_all_that_it_took(
    place: Place, reg: registry.Registry
) -> None:
    store = await place.start()
    refs = [await pushed(reg) for _ in range(4)]
    first = await store.ensure(refs[0], MISSING)
    blobs = await place.blobs()
    for ref in refs[1:3]:
        await store.ensure(ref, MISSING)
    store.use(refs[0])  # pulled first, used last
    await store.ensure(refs[3], MISSING)
    assert await names(store) == {refs[0], refs[2], refs[3]}
    store.use(refs[2])
    store.use(refs[3])
    await store.ensure(refs[1], MISSING)
    assert await names(store) == {refs[1], refs[2], refs[3]}
    assert first.chain_id not in await snapshots(place.session)
    assert not blobs & await place.blobs()
    await nothing_half_made(place.session)


async def test_images_of_live_tasks_stay_and_a_pull_that_does_not_fit_beside_them_says_so(
    place: Place, reg: registry.Registry
) -> None:
    store = await place.start()
    refs = [await pushed(reg) for _ in range(4)]
    for ref in refs[:3]:
        await store.ensure(ref, MISSING)
    place.live = [("a-0001", refs[0]), ("b-0001", refs[1]), ("c-0001", refs[2])]
    message = (
        r"needs 4.0M or more, and of the 15M that images may take 3.0M can be had: raise --image-max-bytes"
    )
    with pytest.raises(PullError, match=message) as caught:
        await store.ensure(refs[3], MISSING)
    assert caught.value.detail == "disk"
    assert await names(store) == set(refs[:3])
    await nothing_half_made(place.session)
    place.live.pop(1)
    await store.ensure(refs[3], MISSING)
    assert await names(store) == {refs[0], refs[2], refs[3]}


async def test_what_the_manifest_says_is_checked_before_anything_is_fetched_or_removed(
    place: Place, reg: registry.Registry
) -> None:
    store = await place.start()
    small, large = await pushed(reg), await pushed(reg, ROOM + MIB)
    await store.ensure(small, MISSING)
    with pytest.raises(PullError, match="needs 16M or more"):
        await store.ensure(large, MISSING)
    assert reg.count("GET", large.partition("/")[2].partition(":")[0] + "/blobs") == 0
    assert await names(store) == {small}


def bomb(mebibytes: int) -> Made:
    """An image of one layer that unpacks to a thousand times of what it is, made of pieces that gzip lets stand in a row."""
    info = tarfile.TarInfo("zeros")
    info.size = mebibytes * MIB
    head, mebibyte, end = (gzip.compress(data, mtime=0) for data in (info.tobuf(), bytes(MIB), bytes(1024)))
    layer = head + mebibyte * mebibytes + end
    config = OciImage([fresh_layer()]).config_bytes  # what it unpacks to is never known
    manifest = images.dump({
        "schemaVersion": 2,
        "mediaType": images.OCI + "manifest.v1+json",
        "config": images.descriptor(config, images.OCI + "image.config.v1+json".removeprefix("image.")),
        "layers": [images.descriptor(layer, images.OCI + "layer.v1.tar+gzip")],
    })  # fmt: skip
    blobs = {images.digest_of(blob): blob for blob in (config, layer)}
    return Made(manifest, images.OCI + "manifest.v1+json", blobs)


def disk_usage(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


async def test_a_layer_that_outgrows_the_room_while_it_is_unpacked_is_stopped_and_removed(
    place: Place, reg: registry.Registry, data_dir: Path
) -> None:
    store = await place.start(40 * MIB)
    small = await pushed(reg)
    await store.ensure(small, MISSING)
    place.live = [("a-0001", small)]
    before = disk_usage(data_dir)
    name, made = fresh_name(), bomb(1024)
    assert sum(map(len, made.blobs.values())) < 2 * MIB
    await images.push_made(made, reg.host, name, "v1")
    with pytest.raises(PullError, match=r"or more, and of the 40M that images may take") as caught:
        await store.ensure(f"{reg.host}/{name}:v1", MISSING)
    assert caught.value.detail == "disk"
    assert await names(store) == {small}
    await nothing_half_made(place.session)
    assert not set(made.blobs) & await place.blobs()
    with trio.fail_after(10):
        while disk_usage(data_dir) > before + 2 * MIB:
            await trio.sleep(0.05)


async def test_an_archive_that_does_not_fit_is_refused_and_one_that_does_makes_room(
    place: Place, reg: registry.Registry, tmp_path: Path
) -> None:
    store = await place.start()
    refs = [await pushed(reg) for _ in range(3)]
    for ref in refs:
        await store.ensure(ref, MISSING)
    archive = tmp_path / "a.tar"
    with pytest.raises(NoSpace, match=r"cannot load the archive: it needs 16M or more"):
        await store.load(
            images.write_oci_archive(archive, {"localhost/l:1": OciImage([fresh_layer(ROOM + MIB)])})
        )
    assert await names(store) == set(refs)
    await store.load(images.write_oci_archive(archive, {"localhost/s:1": OciImage([fresh_layer(2 * MIB)])}))
    assert await names(store) == {"localhost/s:1", *refs[1:]}


async def test_what_is_not_this_nodes_is_never_removed_for_room(
    place: Place, reg: registry.Registry, nursery: trio.Nursery
) -> None:
    other = await start_images(nursery, place.session, node_id="other-node", now=place.now)
    theirs = await pushed(reg)
    await other.ensure(theirs, MISSING)
    target = (await place.session.call(rpcs.IMAGES_GET, images_pb2.GetImageRequest(name=theirs))).image.target
    foreign = images_pb2.Image(name="localhost/foreign:1", target=target)
    await place.session.call(rpcs.IMAGES_CREATE, images_pb2.CreateImageRequest(image=foreign))
    store = await place.start(9 * MIB)
    refs = [await pushed(reg) for _ in range(3)]
    for ref in refs:
        await store.ensure(ref, MISSING)
    assert await names(store) == {theirs, "localhost/foreign:1", *refs[1:]}


async def test_last_uses_outlive_milld_and_a_smaller_limit_is_met_at_the_start(
    place: Place, reg: registry.Registry
) -> None:
    refs = [await pushed(reg) for _ in range(3)]
    async with trio.open_nursery() as first:
        store = await place.start(nursery=first)
        for ref in refs:
            await store.ensure(ref, MISSING)
        store.use(refs[0])
        first.cancel_scope.cancel()
    store = await place.start(9 * MIB)
    with trio.fail_after(10):
        while len(await names(store)) > 2:
            await trio.sleep(0.02)
    assert await names(store) == {refs[0], refs[2]}


async def test_a_limit_that_live_tasks_stand_against_is_warned_of_at_the_start(
    place: Place, reg: registry.Registry
) -> None:
    ref = await pushed(reg)
    async with trio.open_nursery() as first:
        store = await place.start(nursery=first)
        await store.ensure(ref, MISSING)
        first.cancel_scope.cancel()
    place.live = [("a-0001", ref)]
    with capture_logs() as logs, trio.fail_after(10):
        await place.start(MIB)
        while not logs:
            await trio.sleep(0.02)
    assert [(entry["event"], entry["limit"]) for entry in logs] == [
        ("images in use take more than --image-max-bytes", "1M")
    ]


async def test_an_image_that_a_spawn_has_just_found_is_waited_for_not_removed(
    place: Place, reg: registry.Registry
) -> None:
    store = await place.start(9 * MIB)
    refs = [await pushed(reg) for _ in range(3)]
    for ref in refs[:2]:
        await store.ensure(ref, MISSING)
        assert await store.find(ref)
    began = trio.current_time()
    await store.ensure(refs[2], MISSING)
    assert trio.current_time() - began > FOUND_S / 2
    assert await names(store) == set(refs[1:])


async def test_without_a_limit_of_ones_own_most_of_the_disk_is_for_images(
    place: Place, data_dir: Path
) -> None:
    found = os.statvfs(data_dir)
    limit = await limit_of(place.session, None)
    assert limit == int(found.f_frsize * found.f_blocks * 0.8)
    assert await limit_of(place.session, 5) == 5
    assert await limit_of(place.session, 0) is None
    nowhere = attrs.evolve(place.session.features, roots={})
    place.session.features = nowhere
    assert await limit_of(place.session, None) is None


async def test_with_no_limit_nothing_is_measured_or_removed(place: Place, reg: registry.Registry) -> None:
    store = await place.start(0)
    refs = [await pushed(reg) for _ in range(2)]
    for ref in refs:
        await store.ensure(ref, MISSING)
    assert await names(store) == set(refs)


# -- removal by a person --------------------------------------------------------------------------------------------


async def test_a_removed_image_is_gone_with_its_bytes_by_whatever_spelling(
    place: Place, reg: registry.Registry, tmp_path: Path
) -> None:
    store = await place.start()
    archive = images.write_oci_archive(
        tmp_path / "a.tar", {"docker.io/library/app:latest": OciImage([fresh_layer()])}
    )
    await store.load(archive)
    assert await store.find("app")
    await store.remove("app")
    assert await store.find("app") is None
    assert (await snapshots(place.session), await place.blobs()) == ([], set())
    with pytest.raises(NotFound, match=r"no image docker.io/library/app:latest is on this node"):
        await store.remove("app")
    with pytest.raises(FieldError, match="lower case"):
        await store.remove("App")
    await store.ensure(await pushed(reg), MISSING)


async def test_an_image_in_use_is_not_removed(place: Place, reg: registry.Registry) -> None:
    store = await place.start()
    ref = await pushed(reg)
    await store.ensure(ref, MISSING)
    place.live = [("b-0002", ref), ("a-0001", ref), ("c-0001", "busybox")]
    with pytest.raises(Conflict, match="is used by a-0001, b-0002: kill what uses it first"):
        await store.remove(ref)
    assert await store.find(ref)


async def test_an_image_that_is_being_pulled_is_not_removed(place: Place) -> None:
    store, slow = await place.start(), Slow()
    async with serving(slow.handler) as slow.server, trio.open_nursery() as nursery:
        nursery.start_soon(store.ensure, slow.ref, MISSING)
        await slow.reached.wait()
        with pytest.raises(Conflict, match="is being pulled or loaded"):
            await store.remove(slow.ref)
        slow.go_on.set()
    await store.remove(slow.ref)


# -- a pull that is watched -----------------------------------------------------------------------------------------


async def watched(store: Images, ref: str, policy: PullPolicy) -> list[PullProgress | Image]:
    return [news async for news in store.pull(ref, policy)]


async def test_a_watched_pull_shows_what_exists_and_ends_with_the_image(
    place: Place, reg: registry.Registry
) -> None:
    store = await place.start()
    base, name = fresh_layer(), fresh_name()
    await push(OciImage([base]), reg.host, name, "base")
    await push(OciImage([base, fresh_layer()]), reg.host, name, "v1")
    await store.ensure(f"{reg.host}/{name}:base", MISSING)
    *told, image = await watched(store, f"{reg.host}/{name}:v1", ALWAYS)
    last = told[-1]
    assert isinstance(last, PullProgress)
    assert [layer.state for layer in last.layers] == [LayerState.EXISTS, LayerState.DONE]
    assert image in await store.list()
    assert await watched(store, f"{reg.host}/{name}:v1", MISSING) == [image]


@asynccontextmanager
async def listening(store: Images, ref: str) -> AsyncGenerator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(watched, store, ref, ALWAYS))
        yield
        nursery.cancel_scope.cancel()


async def test_a_watched_pull_ends_with_its_last_watcher(place: Place) -> None:
    store, slow = await place.start(), Slow()
    async with serving(slow.handler) as slow.server:
        async with listening(store, slow.ref):
            async with listening(store, slow.ref):
                await slow.reached.wait()
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert store.holds.written(slow.ref)
        with trio.fail_after(5):
            while store.holds.written(slow.ref) or slow.server.open_connections:
                await trio.sleep(0.01)
        await nothing_half_made(place.session)
