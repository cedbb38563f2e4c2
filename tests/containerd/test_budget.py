# ruff: noqa: ASYNC110 -- what happens inside containerd has no event to wait for
"""The room that images may take, on a containerd of its own: kept to by removing, refused where that does not help."""

import gzip
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from mill.containerd import rpcs
from mill.containerd.budget import limit_of
from mill.containerd.holds import FOUND_S
from mill.containerd.proto import images_pb2
from mill.errors import NoSpace, PullError
from tests import images, registry
from tests.containerd.places import ROOM, Place, names, pushed
from tests.containerd.stores import (
    MIB,
    MISSING,
    fresh_layer,
    fresh_name,
    nothing_half_made,
    snapshots,
    start_images,
)
from tests.images import Made, OciImage, push


@pytest.fixture(scope="module")
def reg() -> Iterator[registry.Registry]:
    with registry.running() as running:
        yield running


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


async def test_of_two_pulls_at_once_that_do_not_fit_together_one_comes_through(
    place: Place, reg: registry.Registry
) -> None:
    store = await place.start(7 * MIB)
    refs = [await pushed(reg) for _ in range(2)]
    place.live = [("a-0001", refs[0]), ("b-0001", refs[1])]
    failures: list[PullError] = []

    async def ensure(ref: str) -> None:
        try:
            await store.ensure(ref, MISSING)
        except PullError as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for ref in refs:
            nursery.start_soon(ensure, ref)
    assert [error.detail for error in failures] == ["disk"]
    assert len(await names(store)) == 1
    await nothing_half_made(place.session)


async def test_images_that_share_layers_count_them_once(place: Place, reg: registry.Registry) -> None:
    store = await place.start(9 * MIB)
    base, name = fresh_layer(3 * MIB), fresh_name()
    refs = [f"{reg.host}/{name}:{tag}" for tag in ("a", "b", "c")]
    for ref in refs:
        await push(OciImage([base, fresh_layer()]), reg.host, name, ref.rpartition(":")[2])
        await store.ensure(ref, MISSING)
    assert await names(store) == set(refs)


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
