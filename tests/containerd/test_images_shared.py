# ruff: noqa: ASYNC110 -- what happens inside containerd has no event to wait for
"""Many pulls at once: one download for all, a lively event loop, cancellation, resumption, and what damage comes to."""

import json
import sys
import time
from collections.abc import AsyncGenerator, Iterator

import attrs
import pytest
import trio
import trio.testing

from mill.containerd import oci, rpcs
from mill.containerd.images import Images
from mill.containerd.proto import content_pb2
from mill.containerd.session import Session
from mill.errors import PullError
from tests import images, registry, stall
from tests.containerd.faulty import serving
from tests.containerd.stores import (
    LARGE_BYTES,
    MIB,
    MISSING,
    STALL_LIMIT_S,
    Slow,
    collect_garbage,
    fresh_layer,
    fresh_name,
    leases,
    nothing_half_made,
    refused,
    snapshots,
    start_images,
    wait_stored,
)
from tests.images import OciImage, push
from tests.node import ROOT


@pytest.fixture(scope="module")
def reg() -> Iterator[registry.Registry]:
    with registry.running() as running:
        yield running


@pytest.fixture
async def store(session: Session, nursery: trio.Nursery) -> Images:
    return await start_images(nursery, session)


@pytest.fixture
async def slow() -> AsyncGenerator[Slow]:
    made = Slow()
    async with serving(made.handler) as made.server:
        yield made


# -- many at once ---------------------------------------------------------------------------------------------------


ROUNDS = 3


async def test_twenty_pulls_at_once_of_300_mb_download_it_once_and_never_stall_the_loop(
    containerd_socket: str, reg: registry.Registry
) -> None:
    name, layer = fresh_name(), fresh_layer(LARGE_BYTES)
    reg.plant(name, layer)
    made = await push(OciImage([layer]), reg.host, name, "v1")
    size = sum(map(len, made.blobs.values())) + len(made.manifest)
    del layer, made
    ref = f"{reg.host}/{name}:v1"
    command = [sys.executable, "-m", "tests.containerd.watched_pull", containerd_socket, ref, str(ROUNDS)]
    done = await trio.run_process(command, capture_stdout=True, cwd=ROOT)
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rounds) == ROUNDS
    assert reg.count("GET", f"{name}/manifests") == ROUNDS
    assert reg.count("GET", f"{name}/blobs") == 2 * ROUNDS  # config and layer
    for told in rounds:
        for steps, total in zip(told["steps"], told["totals"], strict=True):
            assert steps == sorted(steps)
            assert steps[-1] == total == size
            assert len(steps) > 3
        assert told["ticks"] > 50
    worst = [(told["worst_s"], told["worst_raw_s"]) for told in rounds]
    print(f"longest stalls of the loop, s (without, with waiting for a processor): {worst}")
    assert max(stalled for stalled, _ in worst) < STALL_LIMIT_S, worst


async def test_a_stalled_loop_does_not_escape_the_watch() -> None:
    async with stall.watching() as stalls:
        await trio.sleep(0.02)
        until = time.thread_time() + 0.06
        while time.thread_time() < until:
            pass
    assert stalls.worst_s > STALL_LIMIT_S


async def test_images_that_share_layers_fetch_and_unpack_them_once(
    store: Images, session: Session, reg: registry.Registry
) -> None:
    shared = [fresh_layer(MIB), fresh_layer(5 * MIB)]
    names = [fresh_name() for _ in range(3)]
    for name in names:
        await push(OciImage([*shared, fresh_layer()]), reg.host, name, "v1")
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(store.ensure, f"{reg.host}/{name}:v1", MISSING)
    for layer in shared:
        assert reg.count("GET", images.digest_of(layer)) == 1
    assert all([await store.find(f"{reg.host}/{name}:v1") for name in names])
    await nothing_half_made(session)


async def test_one_of_several_waiters_can_leave_without_ending_the_pull(store: Images, slow: Slow) -> None:
    found: list[object] = []
    leaver = trio.CancelScope()

    async def leave() -> None:
        with leaver:
            await store.ensure(slow.ref, MISSING)

    async def stay() -> None:
        found.append(await store.ensure(slow.ref, MISSING))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stay)
        nursery.start_soon(leave)
        await slow.reached.wait()
        leaver.cancel()
        await trio.testing.wait_all_tasks_blocked(0.02)
        slow.go_on.set()
    assert leaver.cancelled_caught
    assert len(found) == 1
    assert slow.layer_offsets == [0]


async def test_when_the_last_waiter_leaves_the_pull_ends_cleanly_and_the_next_resumes_it(
    store: Images, session: Session, slow: Slow
) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(store.ensure, slow.ref, MISSING)
        await wait_stored(session, slow)
        nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        while await leases(session) or slow.server.open_connections:
            await trio.sleep(0.01)
    await nothing_half_made(session)
    await collect_garbage(session)
    slow.go_on.set()
    assert await store.ensure(slow.ref, MISSING)
    assert slow.layer_offsets[0] == 0
    assert slow.layer_offsets[1] >= MIB


async def test_garbage_collection_in_the_middle_of_a_pull_takes_nothing_of_it(
    store: Images, session: Session
) -> None:
    below = fresh_layer()
    made = Slow(below=(below,))
    async with serving(made.handler) as made.server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.ensure, made.ref, MISSING)
            await made.reached.wait()
            with trio.fail_after(10):
                while images.digest_of(below) not in await snapshots(session):
                    await trio.sleep(0.01)
            await collect_garbage(session)
            made.go_on.set()
        assert await store.find(made.ref)
        for digest in made.made.blobs:
            await session.call(rpcs.CONTENT_INFO, content_pb2.InfoRequest(digest=digest))
        assert made.server.paths(images.digest_of(below)) == [
            f"/v2/slow/image/blobs/{images.digest_of(below)}"
        ]


async def test_a_new_caller_does_not_wait_for_a_pull_that_is_being_cancelled(
    store: Images, slow: Slow
) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.ensure, slow.ref, MISSING)
            await slow.reached.wait()
            scope.cancel()
    slow.go_on.set()
    assert await store.ensure(slow.ref, MISSING)


# -- damage ---------------------------------------------------------------------------------------------------------


async def test_wrong_bytes_are_a_digest_error_and_leave_nothing_in_the_way(
    store: Images, session: Session, slow: Slow
) -> None:
    right, slow.made = (
        slow.made,
        attrs.evolve(slow.made, blobs={**slow.made.blobs, slow.digest: b"x" * len(slow.layer)}),
    )
    slow.go_on.set()
    with pytest.raises(PullError, check=refused(slow.ref, "digest", f"not what {slow.digest} stands for")):
        await store.ensure(slow.ref, MISSING)
    await nothing_half_made(session)
    slow.made = right
    assert await store.ensure(slow.ref, MISSING)


async def test_a_resumed_download_that_turns_out_wrong_is_begun_anew(
    store: Images, session: Session, slow: Slow
) -> None:
    """The first half came damaged; the digest shows it only when the second half is there."""
    right, slow.layer = slow.layer, bytes(len(slow.layer))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.ensure, slow.ref, MISSING)
        await wait_stored(session, slow)
        nursery.cancel_scope.cancel()
    slow.layer = right
    slow.go_on.set()
    assert await store.ensure(slow.ref, MISSING)
    assert [offset > 0 for offset in slow.layer_offsets] == [False, True, False]
    await nothing_half_made(session)


async def test_a_layer_that_unpacks_to_something_else_is_a_digest_error(
    store: Images, session: Session, slow: Slow
) -> None:
    lying = OciImage([slow.layer]).made()
    config = json.loads(OciImage([fresh_layer()]).config_bytes)
    document = {
        **json.loads(lying.manifest),
        "config": images.descriptor(images.dump(config), oci.OCI_CONFIG),
    }
    slow.made = images.Made(
        images.dump(document),
        lying.manifest_type,
        {slow.digest: slow.layer, images.digest_of(images.dump(config)): images.dump(config)},
    )
    slow.go_on.set()
    with pytest.raises(
        PullError, check=refused(slow.ref, "digest", "does not unpack to what the image's config says")
    ):
        await store.ensure(slow.ref, MISSING)
    await nothing_half_made(session)


async def test_a_layer_that_is_no_tar_is_invalid(
    store: Images, session: Session, reg: registry.Registry
) -> None:
    name = fresh_name()
    await push(OciImage([b"this is no tar " * 1000]), reg.host, name, "v1")
    ref = f"{reg.host}/{name}:v1"
    with pytest.raises(PullError, check=refused(ref, "invalid", "containerd refused")):
        await store.ensure(ref, MISSING)
    await nothing_half_made(session)
