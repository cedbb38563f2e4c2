# ruff: noqa: ASYNC110 -- what happens inside containerd has no event to wait for
"""Archives loaded into a real containerd."""

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from mill.containerd.images import Images
from mill.containerd.session import Session
from mill.errors import FieldError
from tests import images
from tests.containerd.stores import (
    MIB,
    NEVER,
    collect_garbage,
    fresh_layer,
    fresh_name,
    leases,
    nothing_half_made,
    run,
    start_images,
)
from tests.images import OciImage, busybox_image, busybox_layer, make_layer


@pytest.fixture
async def store(session: Session, nursery: trio.Nursery) -> Images:
    return await start_images(nursery, session)


# -- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("write", [images.write_oci_archive, images.write_docker_archive])
async def test_a_loaded_image_runs_without_a_registry_and_outlives_garbage_collection(
    store: Images, session: Session, tmp_path: Path, write: Callable[..., Path], compression: str
) -> None:
    one, two = f"localhost/{fresh_name()}:1", f"localhost/{fresh_name()}:2"
    image = OciImage([busybox_layer(), make_layer({"hello": compression.encode()})], {"Cmd": ["sh"]})
    path = write(tmp_path / "a.tar", {one: image, two: busybox_image()}, compression=compression)
    loaded = await store.load(path)
    assert [i.ref for i in loaded] == [one, two]
    await collect_garbage(session)
    found = await store.ensure(one, NEVER)
    assert found.config.cmd == ("sh",)
    assert {i.ref: (i.size, i.digest) for i in await store.list() if i.ref in {one, two}} == {
        i.ref: (i.size, i.digest) for i in loaded
    }
    # ctr does not wait for what a program wrote last: it has to stay for a moment
    assert await run(session, one, "/bin/sh", "-c", "cat /hello && sleep 0.5") == compression
    again = await store.load(path)
    assert [attrs.evolve(i, created=None) for i in again] == [attrs.evolve(i, created=None) for i in loaded]
    await nothing_half_made(session)


async def test_a_loaded_image_takes_the_name_it_is_given(store: Images, tmp_path: Path) -> None:
    path = images.write_oci_archive(tmp_path / "a.tar", {"": OciImage([fresh_layer()])})
    with pytest.raises(FieldError, match="names no image") as caught:
        await store.load(path)
    assert caught.value.field == "name"
    name = fresh_name()
    assert [image.ref for image in await store.load(path, name=name)] == [f"docker.io/{name}:latest"]
    assert await store.find(name)


async def test_a_file_that_is_no_archive_is_the_fields_fault(store: Images, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    with pytest.raises(FieldError, match=r"^archive: is neither an OCI nor a Docker image archive") as caught:
        await store.load(tmp_path / "a")
    assert caught.value.field == "archive"


async def test_a_damaged_layer_in_an_archive_is_the_fields_fault(
    store: Images, session: Session, tmp_path: Path
) -> None:
    layer = fresh_layer(MIB)
    path = images.write_oci_archive(tmp_path / "a.tar", {"localhost/damaged:1": OciImage([layer])})
    data = path.read_bytes()
    path.write_bytes(data.replace(layer[4000:4100], bytes(100)))
    with pytest.raises(FieldError, match=r"^archive: what came is not what sha256"):
        await store.load(path)
    path.write_bytes(
        images.write_oci_archive(path, {"localhost/damaged:1": OciImage([b"no tar" * 1000])}).read_bytes()
    )
    with pytest.raises(FieldError, match=r"^archive: cannot be stored"):
        await store.load(path)
    assert await store.find("localhost/damaged:1") is None
    await nothing_half_made(session)


async def test_a_cancelled_load_leaves_nothing_half_made(
    store: Images, session: Session, tmp_path: Path
) -> None:
    path = images.write_oci_archive(
        tmp_path / "a.tar", {"localhost/large:1": OciImage([fresh_layer(40 * MIB)])}
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.load, path)
        with trio.fail_after(10):
            while not await leases(session):
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert await store.find("localhost/large:1") is None
    await nothing_half_made(session)
