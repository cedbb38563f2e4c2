# ruff: noqa: ASYNC110 -- what happens inside containerd has no event to wait for
"""Pulls while containerd itself fails: its disk full, its process killed. Each test has a containerd of its own."""

import os
import signal
import subprocess
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from mill.containerd import embedded
from mill.containerd import images as images_service
from mill.containerd import session as session_service
from mill.containerd.endpoint import listener_pid
from mill.containerd.images import Images
from mill.containerd.session import Session
from mill.errors import NoSpace, PullError
from mill.model import PullPolicy
from tests import images
from tests.containerd.faulty import serving
from tests.containerd.stores import MIB, Slow, fresh_layer, nothing_half_made, wait_stored

SMALL_DISK = "48m"


@pytest.fixture
def small_disk(data_dir: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", data_dir], check=True)
    yield data_dir
    subprocess.run(["umount", data_dir], check=True)


@asynccontextmanager
async def own_containerd(directory: Path, **options: Any) -> AsyncGenerator[tuple[Session, Images]]:
    async with trio.open_nursery() as nursery:
        socket: str = await nursery.start(embedded.serve, directory)
        session: Session = await nursery.start(session_service.serve, socket)
        serve = partial(images_service.serve, session, node_id="n", now=time.time, registries={}, **options)
        store: Images = await nursery.start(serve)
        yield session, store
        nursery.cancel_scope.cancel()


async def test_a_full_disk_is_told_as_such_and_nothing_is_left_of_the_pull(
    small_disk: Path, tmp_path: Path
) -> None:
    slow = Slow(layer=fresh_layer(60 * MIB))
    slow.go_on.set()
    archive = images.write_oci_archive(
        tmp_path / "a.tar", {"localhost/large:1": images.OciImage([slow.layer])}
    )
    async with (
        serving(slow.handler) as slow.server,
        own_containerd(small_disk, max_bytes=0) as (session, store),
    ):
        with pytest.raises(
            PullError, match="containerd's disk is full; free space or remove images"
        ) as caught:
            await store.ensure(slow.ref, PullPolicy.MISSING)
        assert caught.value.detail == "disk"
        await nothing_half_made(session)
        with pytest.raises(NoSpace, match="disk is full"):
            await store.load(archive)
        await nothing_half_made(session)


async def test_what_most_of_a_disk_cannot_hold_is_refused_before_it_fills_up(small_disk: Path) -> None:
    slow = Slow(layer=fresh_layer(60 * MIB))
    slow.go_on.set()
    async with serving(slow.handler) as slow.server, own_containerd(small_disk) as (session, store):
        with pytest.raises(
            PullError, match="it needs 60M or more, and of the 38M that images may take"
        ) as caught:
            await store.ensure(slow.ref, PullPolicy.MISSING)
        assert caught.value.detail == "disk"
        assert slow.layer_offsets == []
        await nothing_half_made(session)


async def test_a_pull_goes_on_where_it_was_when_containerd_is_killed_and_comes_back(data_dir: Path) -> None:
    slow = Slow()
    async with serving(slow.handler) as slow.server, own_containerd(data_dir) as (session, store):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.ensure, slow.ref, PullPolicy.MISSING)
            await wait_stored(session, slow)
            pid = listener_pid(session.socket)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            with trio.fail_after(10):
                while session.connected:
                    await trio.sleep(0.01)
            slow.go_on.set()
        assert await store.find(slow.ref)
        assert slow.layer_offsets[-1] >= MIB
        await nothing_half_made(session)


async def test_an_image_is_found_as_soon_as_a_killed_containerd_is_back(
    data_dir: Path, tmp_path: Path
) -> None:
    archive = images.write_oci_archive(
        tmp_path / "a.tar", {"localhost/x:1": images.OciImage([fresh_layer()])}
    )
    async with own_containerd(data_dir) as (session, store):
        await store.load(archive)
        pid = listener_pid(session.socket)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert await store.ensure("localhost/x:1", PullPolicy.NEVER)


async def test_a_containerd_that_stays_away_is_told_in_the_pulls_words(
    session: Session, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_service, "_RECONNECT_S", 0.3)
    serve = partial(images_service.serve, session, node_id="n", now=time.time, registries={})
    store: Images = await nursery.start(serve)
    monkeypatch.setattr(session, "_closed", True)
    for policy in (PullPolicy.NEVER, PullPolicy.MISSING):
        with pytest.raises(PullError, match="cannot pull localhost/x:1: containerd went away") as caught:
            await store.ensure("localhost/x:1", policy)
        assert caught.value.detail == "network"
