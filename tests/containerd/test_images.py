"""Images on a real containerd, from a real registry: pulled, found, listed, by every policy."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from mill.config import RegistryConfig
from mill.containerd import oci, rpcs
from mill.containerd.images import Images
from mill.containerd.leases import leased
from mill.containerd.names import image_of
from mill.containerd.proto import images_pb2, snapshots_pb2
from mill.containerd.reference import parse
from mill.containerd.session import Session
from mill.errors import PullError
from mill.model import LayerState, PullProgress
from tests import images, registry
from tests.containerd.stores import (
    ALWAYS,
    MISSING,
    NEVER,
    collect_garbage,
    fresh_layer,
    fresh_name,
    labels_of,
    leases,
    nothing_half_made,
    refused,
    run,
    start_images,
)
from tests.images import OciImage, busybox_layer, make_layer, push


@pytest.fixture(scope="module")
def reg() -> Iterator[registry.Registry]:
    with registry.running() as running:
        yield running


@pytest.fixture
async def store(session: Session, nursery: trio.Nursery) -> Images:
    return await start_images(nursery, session)


@pytest.mark.parametrize(
    ("compression", "docker_types"), [("none", False), ("gzip", False), ("zstd", False), ("gzip", True)]
)
async def test_a_pulled_image_runs_and_outlives_garbage_collection(
    store: Images,
    session: Session,
    reg: registry.Registry,
    compression: str,
    docker_types: bool,  # noqa: FBT001 -- pytest's parameter
) -> None:
    layers = [busybox_layer(), make_layer({"hello": f"from {compression}".encode()}), fresh_layer()]
    name = fresh_name()
    image = OciImage(layers, {"Cmd": ["sh"], "User": "nobody"}, compression, docker_types)
    made = await push(image, reg.host, name, "v1")
    ref = f"{reg.host}/{name}:v1"
    told: list[PullProgress] = []
    pulled = await store.ensure(ref, MISSING, on_progress=told.append)
    await collect_garbage(session)
    assert (pulled.ref, pulled.digest) == (ref, made.digest)
    assert pulled.config.user == "nobody"
    assert pulled.chain_id == oci.chain_ids([images.digest_of(layer) for layer in layers])[-1]
    assert await store.find(ref) == pulled
    size = sum(len(blob) for blob in made.blobs.values()) + len(made.manifest)
    assert (told[-1].done, told[-1].total) == (size, size)
    assert {layer.state for layer in told[-1].layers} <= {LayerState.DONE, LayerState.EXISTS}
    assert told[-1].layers[-1].state is LayerState.DONE
    (listed,) = [image for image in await store.list() if image.ref == ref]
    assert (listed.size, listed.digest) == (size, made.digest)
    assert listed.created is not None
    assert abs(listed.created - time.time()) < 60
    assert await run(session, ref, "/bin/cat", "/hello") == f"from {compression}"
    await nothing_half_made(session)


async def test_blobs_are_labelled_as_containerds_own_client_would(
    store: Images, session: Session, reg: registry.Registry
) -> None:
    name = fresh_name()
    image = OciImage([fresh_layer(), fresh_layer()])
    index = await images.push_index([image], reg.host, name, "v1")
    pulled = await store.ensure(f"{reg.host}/{name}:v1", MISSING)
    made = image.made()
    manifest = json.loads(made.manifest)
    config, first, second = (d["digest"] for d in (manifest["config"], *manifest["layers"]))
    source = {f"containerd.io/distribution.source.{reg.host}": name}
    gc = "containerd.io/gc.ref."
    assert pulled.digest == images.digest_of(index)
    assert await labels_of(session, pulled.digest) == {**source, gc + "content.m.0": made.digest}
    assert await labels_of(session, made.digest) == {
        **source,
        gc + "content.config": config,
        gc + "content.l.0": first,
        gc + "content.l.1": second,
    }
    assert await labels_of(session, config) == {
        **source,
        f"{gc}snapshot.{session.features.snapshotter}": pulled.chain_id,
    }
    assert await labels_of(session, first) == {**source, "containerd.io/uncompressed": first}


async def test_of_an_index_this_platforms_image_is_taken(store: Images, reg: registry.Registry) -> None:
    name = fresh_name()
    ours, other = OciImage([fresh_layer()]), OciImage([fresh_layer()], architecture="s390x")
    attestation = {**ours.made().descriptor, "platform": {"os": "unknown", "architecture": "unknown"}}
    await images.push_made(ours.made(), reg.host, name, "both")
    await images.push_index([other, ours], reg.host, name, "both", extra=[attestation])
    pulled = await store.ensure(f"{reg.host}/{name}:both", MISSING)
    assert pulled.config.diff_ids == (images.digest_of(ours.layers[0]),)


async def test_an_image_for_another_platform_is_invalid(
    store: Images, session: Session, reg: registry.Registry
) -> None:
    name = fresh_name()
    other = OciImage([fresh_layer()], architecture="s390x")
    await images.push_index([other], reg.host, name, "index")
    await push(other, reg.host, name, "alone")
    for tag, why in (
        ("index", "there is no image for linux/"),
        ("alone", "the image is for linux/s390x, this node is linux/"),
    ):
        ref = f"{reg.host}/{name}:{tag}"
        with pytest.raises(PullError, check=refused(ref, "invalid", why)):
            await store.ensure(ref, MISSING)
        assert await store.find(ref) is None
    await nothing_half_made(session)


async def test_a_private_registrys_image_comes_with_the_password(
    session: Session, nursery: trio.Nursery
) -> None:
    with registry.running(private=True) as private:
        name = fresh_name()
        await push(OciImage([fresh_layer()]), private.host, name, "v1", creds=private.creds)
        config = RegistryConfig(registry.USERNAME, registry.PASSWORD)
        store = await start_images(nursery, session, registries={private.host: config})
        assert await store.ensure(f"{private.host}/{name}:v1", MISSING)


async def test_what_is_wrong_with_a_reference_is_told_before_anything_is_asked(store: Images) -> None:
    with pytest.raises(PullError, check=refused("Busy", "invalid", "lower case")):
        await store.ensure("Busy", MISSING)


# -- policies -------------------------------------------------------------------------------------------------------


async def test_never_finds_what_is_there_and_says_how_to_get_what_is_not(
    store: Images, reg: registry.Registry
) -> None:
    name = fresh_name()
    await push(OciImage([fresh_layer()]), reg.host, name, "v1")
    ref = f"{reg.host}/{name}:v1"
    with pytest.raises(PullError, check=refused(ref, "not_found", "load it with mill images load")):
        await store.ensure(ref, NEVER)
    pulled = await store.ensure(ref, MISSING)
    assert await store.ensure(ref, NEVER) == pulled


async def test_missing_asks_nobody_for_what_is_there_and_always_sees_that_a_tag_has_moved(
    store: Images, reg: registry.Registry
) -> None:
    name, shared = fresh_name(), fresh_layer()
    ref = f"{reg.host}/{name}:v1"
    await push(OciImage([shared]), reg.host, name, "v1")
    first = await store.ensure(ref, ALWAYS)
    moved = await push(OciImage([shared, fresh_layer()]), reg.host, name, "v1")
    asked = len(reg.requests)
    assert await store.ensure(ref, MISSING) == first
    assert len(reg.requests) == asked
    second = await store.ensure(ref, ALWAYS)
    assert second.digest == moved.digest
    assert await store.find(ref) == second
    assert reg.count("GET", f"{name}/blobs/{images.digest_of(shared)}") == 1


async def test_a_digest_that_is_here_needs_no_registry_whatever_its_name_and_the_policy(
    store: Images, reg: registry.Registry
) -> None:
    name, other = fresh_name(), fresh_name()
    made = await push(OciImage([fresh_layer()]), reg.host, name, "v1")
    await push(OciImage([fresh_layer()]), reg.host, name, "v2")
    pulled = await store.ensure(f"{reg.host}/{name}:v1", MISSING)
    asked = len(reg.requests)
    for ref in (f"{name}@{made.digest}", f"{name}:v1@{made.digest}", f"{name}:v2@{made.digest}"):
        for policy in (NEVER, MISSING, ALWAYS):
            assert await store.ensure(f"{reg.host}/{ref}", policy) == pulled
    assert len(reg.requests) == asked
    assert await store.find(f"{reg.host}/{other}@{made.digest}") is None
    with pytest.raises(PullError) as caught:
        await store.ensure(f"{reg.host}/{name}@sha256:{'0' * 64}", NEVER)
    assert caught.value.detail == "not_found"


async def test_an_image_pulled_by_its_digest_is_known_by_it_and_not_by_its_tag(
    store: Images, reg: registry.Registry
) -> None:
    name = fresh_name()
    made = await push(OciImage([fresh_layer()]), reg.host, name, "v1")
    by_digest = f"{reg.host}/{name}@{made.digest}"
    assert (await store.ensure(by_digest, ALWAYS)).ref == by_digest
    assert await store.find(by_digest)
    assert await store.find(f"{reg.host}/{name}:v1") is None


async def test_a_name_whose_digest_is_another_s_is_not_believed(
    store: Images, session: Session, reg: registry.Registry
) -> None:
    name = fresh_name()
    made = await push(OciImage([fresh_layer()]), reg.host, name, "v1")
    await store.ensure(f"{reg.host}/{name}:v1", MISSING)
    target = (await image_of(session, parse(f"{reg.host}/{name}:v1"))).target  # type: ignore[union-attr]  # it is there
    lie = f"{reg.host}/{name}@sha256:{'1' * 64}"
    image = images_pb2.Image(name=lie, target=target)
    await session.call(rpcs.IMAGES_CREATE, images_pb2.CreateImageRequest(image=image))
    assert target.digest == made.digest
    assert await store.find(lie) is None
    await session.call(rpcs.IMAGES_DELETE, images_pb2.DeleteImageRequest(name=lie))


async def test_always_fetches_only_the_manifest_of_what_has_not_changed(
    store: Images, reg: registry.Registry
) -> None:
    name = fresh_name()
    await push(OciImage([fresh_layer()]), reg.host, name, "v1")
    first = await store.ensure(f"{reg.host}/{name}:v1", MISSING)
    blobs, manifests = reg.count("GET", f"{name}/blobs"), reg.count("GET", f"{name}/manifests")
    assert await store.ensure(f"{reg.host}/{name}:v1", ALWAYS) == first
    assert (reg.count("GET", f"{name}/blobs"), reg.count("GET", f"{name}/manifests")) == (
        blobs,
        manifests + 1,
    )


async def test_a_present_image_costs_two_calls(
    store: Images, reg: registry.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fresh_name()
    await push(OciImage([fresh_layer()]), reg.host, name, "v1")
    await store.ensure(f"{reg.host}/{name}:v1", MISSING)
    made: list[str] = []
    call = Session.call

    async def counting(self: Session, rpc: Any, request: Any, **options: Any) -> Any:
        made.append(rpc.path.rpartition("/")[2])
        return await call(self, rpc, request, **options)

    monkeypatch.setattr(Session, "call", counting)
    await store.ensure(f"{reg.host}/{name}:v1", MISSING)
    assert made == ["Get", "Stat"]


async def test_an_image_without_its_snapshot_is_not_present_and_is_mended(
    store: Images, session: Session, reg: registry.Registry
) -> None:
    name = fresh_name()
    await push(OciImage([fresh_layer()]), reg.host, name, "v1")
    ref = f"{reg.host}/{name}:v1"
    pulled = await store.ensure(ref, MISSING)
    request = snapshots_pb2.RemoveSnapshotRequest(
        snapshotter=session.features.snapshotter, key=pulled.chain_id
    )
    await session.call(rpcs.SNAPSHOTS_REMOVE, request)
    assert await store.find(ref) is None
    assert await store.ensure(ref, MISSING) == pulled
    assert await store.find(ref) == pulled


async def test_leases_of_an_earlier_milld_of_this_node_go_at_the_start(
    session: Session, nursery: trio.Nursery
) -> None:
    async with (
        leased(session, "gone-node", time.time) as ours,
        leased(session, "other-node", time.time) as theirs,
    ):
        await start_images(nursery, session, node_id="gone-node")
        assert theirs in await leases(session)
        assert ours not in await leases(session)


async def test_a_pull_tells_when_its_layers_were_there_and_when_unpacking_began(
    store: Images, reg: registry.Registry
) -> None:
    name = fresh_name()
    await push(OciImage([busybox_layer(), fresh_layer()]), reg.host, name, "v1")
    ref = f"{reg.host}/{name}:v1"
    before = time.time()
    pulled = await store.ensure(ref, MISSING)
    assert pulled.fetched is not None
    assert pulled.unpack_began is not None
    assert before < pulled.fetched < time.time()
    assert before < pulled.unpack_began < time.time()
    found = await store.ensure(ref, MISSING)
    assert (found.fetched, found.unpack_began) == (None, None)
    again = await store.ensure(ref, ALWAYS)
    assert again.fetched is not None
    assert again.unpack_began is None
