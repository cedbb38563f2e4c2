# ruff: noqa: ASYNC110 -- what happens inside containerd has no event to wait for
"""Images that a person removes, and pulls that somebody watches, on a containerd of their own."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from mill.containerd.images import Images
from mill.errors import Conflict, FieldError, NotFound
from mill.model import Image, LayerState, PullPolicy, PullProgress
from tests import images, registry
from tests.containerd.faulty import serving
from tests.containerd.places import Place, pushed
from tests.containerd.stores import (
    ALWAYS,
    MISSING,
    Slow,
    fresh_layer,
    fresh_name,
    nothing_half_made,
    snapshots,
)
from tests.images import OciImage, push


@pytest.fixture(scope="module")
def reg() -> Iterator[registry.Registry]:
    with registry.running() as running:
        yield running


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
