"""The images of a whole node: a budget that holds while tasks run, removal, pulls that are watched and left, tags that move."""

import json
import os
import subprocess

import httpx
import pytest
import trio

from mill.client import Client, Conflict, NotFound, ProblemError
from mill.model import Image, LayerState, PullProgress, Reason, Status
from tests import registry as real
from tests.images import Made, OciImage, busybox_image, busybox_layer, large_layer, make_layer, push
from tests.node import MILL, MakeNode, Node
from tests.scenarios.acts import WITHIN_S, end_of, printed, run, running, spawn, until
from tests.scenarios.bad_registry import BadRegistry

MIB = 2**20
EXTRA_BYTES = 8 * MIB
"""Of each image beside busybox, and as much again unpacked."""
ROOM = {"cpu": "64", "memory": "64G", "image-max-bytes": "40M"}
"""For two of them."""


async def pushed(registry: real.Registry, tag: str, *, extra: int = EXTRA_BYTES) -> str:
    image = OciImage([busybox_layer(), large_layer(extra, os.urandom(8))], busybox_image().config)
    await push(image, registry.host, "store/app", tag)
    return f"{registry.host}/store/app:{tag}"


async def names(client: Client) -> set[str]:
    return {image.ref for image in await client.images()}


def stored(node: Node) -> int:
    """Bytes of all blobs and snapshots on the disk."""
    root = node.data_dir / "containerd/root"
    folders = ("io.containerd.content.v1.content/blobs", "io.containerd.snapshotter.v1.overlayfs/snapshots")
    return sum(path.lstat().st_blocks * 512 for folder in folders for path in (root / folder).rglob("*"))


async def test_the_budget_holds_while_tasks_run_and_the_longest_unused_image_goes(
    make_node: MakeNode, registry: real.Registry
) -> None:
    node = await trio.to_thread.run_sync(lambda: make_node(busybox=False, options=ROOM))
    refs = [await pushed(registry, tag) for tag in ("a", "b", "c", "d")]
    async with Client(node.address, node.token) as client:
        first = await running(client, "sleep", "100", image=refs[0])
        assert (await run(client, "true", image=refs[1])).exit_code == 0
        second = await running(client, "sleep", "100", image=refs[2])
        assert await names(client) == {refs[0], refs[2]}
        assert stored(node) < 42 * MIB
        refused = await end_of(client, await spawn(client, "true", image=refs[3]))
        assert (refused.status, refused.reason, refused.detail) == (Status.FAILED, Reason.PULL_ERROR, "disk")
        assert "of the 40M that images may take" in (refused.message or "")
        with pytest.raises(ProblemError, match="of the 40M that images may take"):
            await client.pull_image(refs[3]).image()
        assert await names(client) == {refs[0], refs[2]}
        await client.kill(first, grace=0)
        await end_of(client, first)
        assert (await run(client, "true", image=refs[3])).exit_code == 0
        assert await names(client) == {refs[2], refs[3]}
        assert (await client.get(second)).status == Status.RUNNING
        await client.kill(second, grace=0)


async def test_last_uses_and_the_budget_outlive_a_crash_of_milld(
    make_node: MakeNode, registry: real.Registry
) -> None:
    node = await trio.to_thread.run_sync(lambda: make_node(busybox=False, options=ROOM))
    refs = [await pushed(registry, tag) for tag in ("k", "l", "m")]
    async with Client(node.address, node.token) as client:
        for ref in refs[:2]:
            await client.pull_image(ref).image()
        assert (await run(client, "true", image=refs[0])).exit_code == 0  # pulled first, used last
        await until(lambda: _used(node, refs[0]) > _used(node, refs[1]))
        await trio.to_thread.run_sync(node.restart, "kill9")
        await client.pull_image(refs[2]).image()
        assert await names(client) == {refs[0], refs[2]}


def _used(node: Node, ref: str) -> float:
    """When containerd's label says that the image was used last."""
    command = ["ctr", "-a", str(node.socket), "-n", "mill", "images", "ls", f"name=={ref}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(listed.partition("mill.used=")[2].partition(",")[0].split()[0])


async def test_a_bomb_of_a_layer_ends_its_task_and_leaves_nothing(
    make_node: MakeNode, registry: real.Registry
) -> None:
    node = await trio.to_thread.run_sync(lambda: make_node(busybox=False, options=ROOM))
    zeros = make_layer({"zeros": bytes(128 * MIB)})
    await push(OciImage([zeros], compression="gzip"), registry.host, "store/bomb", "1")
    async with Client(node.address, node.token) as client:
        record = await end_of(client, await spawn(client, "true", image=f"{registry.host}/store/bomb:1"))
        assert (record.reason, record.detail) == (Reason.PULL_ERROR, "disk"), record.message
        assert await names(client) == set()
    await until(lambda: stored(node) < MIB)


# -- removal --------------------------------------------------------------------------------------------------------


async def test_an_image_of_a_live_task_stays_and_is_removed_with_its_bytes_afterwards(
    make_node: MakeNode, registry: real.Registry
) -> None:
    node = await trio.to_thread.run_sync(lambda: make_node(busybox=False))
    ref = await pushed(registry, "rm")
    async with Client(node.address, node.token) as client:
        task_id = await running(client, "sleep", "100", image=ref)
        with pytest.raises(Conflict, match=task_id):
            await client.remove_image(ref)
        refused = await trio.to_thread.run_sync(lambda: node.mill("images", "rm", ref, check=False))
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == f"mill: {ref} is used by {task_id}: kill what uses it first\n"
        await client.kill(task_id, grace=0)
        await end_of(client, task_id)
        assert (
            await trio.to_thread.run_sync(node.leaks) == []
        )  # an ended task's own files hold on to the image's
        removed = await trio.to_thread.run_sync(lambda: node.mill("images", "rm", ref))
        assert removed.stdout == f"removed {ref}\n"
        assert await names(client) == set()
        with pytest.raises(NotFound):
            await client.remove_image(ref)
        again = await spawn(client, "true", image=ref, pull="never")  # not found a moment ago, either
        assert (await end_of(client, again)).detail == "not_found"
        assert (await run(client, "true", image=ref)).exit_code == 0
        assert await trio.to_thread.run_sync(node.leaks) == []
        await client.remove_image(ref)
    await until(lambda: stored(node) < MIB)


# -- pulls that are watched -----------------------------------------------------------------------------------------


async def test_a_pull_by_the_command_tells_that_it_begins_and_the_image(
    node: Node, client: Client, registry: real.Registry
) -> None:
    ref = await pushed(registry, "cli")
    done = await trio.to_thread.run_sync(lambda: node.mill("images", "pull", ref))
    (image,) = [image for image in await client.images() if image.ref == ref]
    assert done.stdout == f"pulled {ref}  {image.digest}\n"
    assert done.stderr == f"mill: pulling {ref}\n"
    missing = await trio.to_thread.run_sync(
        lambda: node.mill("images", "pull", "--pull", "missing", "--json", ref)
    )
    assert (json.loads(missing.stdout)["image"]["digest"], missing.stderr) == (image.digest, "")
    unknown = await trio.to_thread.run_sync(
        lambda: node.mill("images", "pull", f"{registry.host}/no/such:tag", check=False)
    )
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
    await client.remove_image(ref)


async def test_a_client_that_goes_away_takes_along_a_pull_that_nobody_else_waits_for(
    node: Node, client: Client, bad: BadRegistry
) -> None:
    bad.stall = True
    ref = f"{bad.host}/left/alone:1"
    process = _start_pull(node, ref)
    try:
        assert await trio.to_thread.run_sync(bad.stalled.wait, WITHIN_S)
        with pytest.raises(Conflict, match="is being pulled"):
            await client.remove_image(ref)
    finally:
        process.kill()
        process.communicate()
    await until(lambda: _is_over(client, ref))
    assert await trio.to_thread.run_sync(node.leaks) == []
    assert ref not in await names(client)


def _start_pull(node: Node, ref: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([*MILL, "images", "pull", ref], env=node.env(), stderr=subprocess.PIPE)


async def _is_over(client: Client, ref: str) -> bool:
    try:
        await client.remove_image(ref)
    except Conflict:
        return False
    except NotFound:
        return True
    raise AssertionError("it was pulled after all")


async def test_a_pull_that_a_task_waits_for_goes_on_without_the_client_that_began_it(
    client: Client, bad: BadRegistry
) -> None:
    bad.stall = True
    ref = f"{bad.host}/shared/pull:1"
    async with client.pull_image(ref, pull="missing") as news:
        progress = await anext(news)
        task_id = await spawn(client, "true", image=ref)
        assert await trio.to_thread.run_sync(bad.stalled.wait, WITHIN_S)

        async def shown() -> bool:
            pull = (await client.get(task_id)).pull
            return pull is not None and any(layer.state == LayerState.DOWNLOADING for layer in pull.layers)

        await until(shown)
    assert isinstance(progress, PullProgress)
    bad.go_on.set()
    record = await end_of(client, task_id)
    assert (record.exit_code, record.pull) == (0, None)
    fetched = [path for path in bad.requests if "/blobs/" in path]  # but for what an earlier pull has left
    assert len(fetched) == len(set(fetched)) > 0
    await client.remove_image(ref)


def test_a_bad_reference_is_refused_before_the_answer_begins(node: Node) -> None:
    answer: httpx.Response = node.api("POST", "/v1/images/pull", json={"image": "Not A Reference"})
    assert (answer.status_code, answer.json()["field"]) == (400, "image")


# -- tags that move -------------------------------------------------------------------------------------------------


async def said_by(client: Client, image: str, pull: str) -> str:
    """What a task of the image prints, or why there is none."""
    task_id = (await client.spawn(image=image, memory="32M", pull=pull)).id
    record = await end_of(client, task_id)
    return record.detail or (await printed(client, task_id)).strip()


async def pushed_echo(registry: real.Registry, repository: str, tag: str, text: str) -> Made:
    return await push(busybox_image(Cmd=["echo", text]), registry.host, repository, tag)


@pytest.mark.parametrize("tag", ["", ":v1"])
async def test_a_moved_tag_is_seen_by_always_alone(client: Client, registry: real.Registry, tag: str) -> None:
    repository, pushed_tag = f"moving/app{len(tag)}", tag.removeprefix(":") or "latest"
    ref = f"{registry.host}/{repository}"
    assert await said_by(client, ref + tag, "never") == "not_found"
    first = await pushed_echo(registry, repository, pushed_tag, "one")
    assert await said_by(client, ref + tag, "missing") == "one"
    second = await pushed_echo(registry, repository, pushed_tag, "two")
    assert [await said_by(client, ref + tag, pull) for pull in ("missing", "never")] == ["one", "one"]
    assert await said_by(client, ref + tag, "always") == "two"
    assert [await said_by(client, ref + tag, pull) for pull in ("missing", "never")] == ["two", "two"]
    digests = {image.ref: image.digest for image in await client.images()}
    assert digests[f"{ref}:{pushed_tag}"] == second.digest
    forms = f"{ref}@{first.digest}", f"{ref}:{pushed_tag}@{first.digest}"  # a digest never moves
    assert [await said_by(client, form, "never") for form in forms] == ["not_found"] * 2
    for form in forms:
        assert [await said_by(client, form, pull) for pull in ("missing", "always", "never")] == ["one"] * 3
    await _remove_all(client, ref)


async def test_a_pull_by_a_person_moves_the_tag_unless_told_otherwise(
    client: Client, registry: real.Registry
) -> None:
    ref = f"{registry.host}/moving/pulled:v1"
    first = await pushed_echo(registry, "moving/pulled", "v1", "one")
    assert (await client.pull_image(ref).image()).digest == first.digest
    second = await pushed_echo(registry, "moving/pulled", "v1", "two")
    assert (await client.pull_image(ref, pull="missing").image()).digest == first.digest
    image = await client.pull_image(ref).image()
    assert isinstance(image, Image)
    assert (image.ref, image.digest) == (ref, second.digest)
    await _remove_all(client, ref)


async def _remove_all(client: Client, prefix: str) -> None:
    for ref in await names(client):
        if ref.startswith(prefix):
            await client.remove_image(ref)
