"""Each group of methods once against a real containerd: a wrong field number would not come back as it went."""

import hashlib
import io
import json
import shutil
import signal
import tarfile
from pathlib import Path

import pytest
import trio
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from mill.containerd import rpcs
from mill.containerd.faults import RpcNotFound
from mill.containerd.proto import (
    containers_pb2,
    content_pb2,
    diff_pb2,
    events_pb2,
    images_pb2,
    leases_pb2,
    runc_pb2,
    snapshots_pb2,
    task_events_pb2,
    task_pb2,
    tasks_pb2,
    types_pb2,
)
from mill.containerd.session import Session
from mill.containerd.stream import Stream
from tests.containerd.test_stream import write
from tests.containerd.wire import forget_ingest

SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Spec"


@pytest.fixture
def rootfs(data_dir: Path) -> Path:
    """A directory that runs busybox."""
    directory = data_dir / "rootfs"
    for name in ("bin", "proc", "dev"):
        (directory / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", directory / "bin/busybox")
    return directory


def spec(*args: str) -> Any:
    """The least that runc takes."""
    value = {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/busybox", *args],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "oomScoreAdj": 0,
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": f"/{kind}", "type": of, "source": of}
            for kind, of in (("proc", "proc"), ("dev", "tmpfs"))
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
    }
    return Any(type_url=SPEC_TYPE, value=json.dumps(value).encode())


def options() -> Any:
    return Any(
        type_url="containerd.runc.v1.Options", value=runc_pb2.Options(binary_name="runc").SerializeToString()
    )


async def create(session: Session, name: str, rootfs: Path, *args: str) -> int:
    """Container and task, not started; the pid."""
    runtime = containers_pb2.Container.Runtime(name="io.containerd.runc.v2", options=options())
    container = containers_pb2.Container(
        id=name, labels={"mill.task": name}, runtime=runtime, spec=spec(*args)
    )
    await session.call(rpcs.CONTAINERS_CREATE, containers_pb2.CreateContainerRequest(container=container))
    mount = types_pb2.Mount(type="bind", source=str(rootfs), options=["rbind", "ro"])
    request = tasks_pb2.CreateTaskRequest(container_id=name, rootfs=[mount], options=options())
    return (await session.call(rpcs.TASKS_CREATE, request)).pid


async def next_event(
    events: Stream[events_pb2.SubscribeRequest, types_pb2.Envelope], topic: str
) -> types_pb2.Envelope:
    with trio.fail_after(10):
        while True:
            envelope = await events.receive()
            if envelope.topic == topic:
                return envelope


async def test_a_task_lives_and_dies(session: Session, rootfs: Path) -> None:
    name = "lives"
    subscribe = events_pb2.SubscribeRequest(filters=['topic~="/tasks/"'])
    async with session.stream(rpcs.EVENTS_SUBSCRIBE) as events:
        await events.send(subscribe)
        with trio.move_on_after(0.05):
            await events.receive()
        pid = await create(session, name, rootfs, "sleep", "100")
        get = tasks_pb2.GetRequest(container_id=name)
        made = (await session.call(rpcs.TASKS_GET, get)).process
        assert (made.id, made.pid, made.status) == (name, pid, task_pb2.CREATED)
        assert (await session.call(rpcs.TASKS_START, tasks_pb2.StartRequest(container_id=name))).pid == pid
        listed = (await session.call(rpcs.TASKS_LIST, tasks_pb2.ListTasksRequest())).tasks
        assert [(task.id, task.status) for task in listed] == [(name, task_pb2.RUNNING)]
        pids = await session.call(rpcs.TASKS_LIST_PIDS, tasks_pb2.ListPidsRequest(container_id=name))
        assert [process.pid for process in pids.processes] == [pid]
        resources = Any(
            type_url="types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
            value=json.dumps({"pids": {"limit": 77}}).encode(),
        )
        await session.call(
            rpcs.TASKS_UPDATE, tasks_pb2.UpdateTaskRequest(container_id=name, resources=resources)
        )
        await session.call(rpcs.TASKS_CLOSE_IO, tasks_pb2.CloseIORequest(container_id=name, stdin=True))
        await session.call(
            rpcs.TASKS_KILL, tasks_pb2.KillRequest(container_id=name, signal=signal.SIGKILL, all=True)
        )
        ended = await session.call(rpcs.TASKS_WAIT, tasks_pb2.WaitRequest(container_id=name), timeout_s=None)
        assert ended.exit_status == 128 + signal.SIGKILL
        assert ended.exited_at.seconds > 1_700_000_000
        deleted = await session.call(rpcs.TASKS_DELETE, tasks_pb2.DeleteTaskRequest(container_id=name))
        assert (deleted.pid, deleted.exit_status) == (pid, ended.exit_status)
        assert deleted.exited_at == ended.exited_at
        envelope = await next_event(events, "/tasks/start")
        assert task_events_pb2.TaskStart.FromString(envelope.event.value).pid == pid
        envelope = await next_event(events, "/tasks/exit")
        exit_event = task_events_pb2.TaskExit.FromString(envelope.event.value)
        assert (exit_event.container_id, exit_event.id, exit_event.exit_status) == (
            name,
            name,
            ended.exit_status,
        )
        assert exit_event.exited_at == ended.exited_at
    await session.call(rpcs.CONTAINERS_DELETE, containers_pb2.DeleteContainerRequest(id=name))
    with pytest.raises(RpcNotFound):
        await session.call(rpcs.TASKS_GET, tasks_pb2.GetRequest(container_id=name))


async def test_cancelling_a_wait_leaves_the_task_alone(session: Session, rootfs: Path) -> None:
    await create(session, "waits", rootfs, "sh", "-c", "read x; exit 7")
    wait = tasks_pb2.WaitRequest(container_id="waits")
    with trio.move_on_after(0.1) as patience:
        await session.call(rpcs.TASKS_WAIT, wait, timeout_s=None)
    assert patience.cancelled_caught
    await session.call(rpcs.TASKS_START, tasks_pb2.StartRequest(container_id="waits"))
    assert (await session.call(rpcs.TASKS_WAIT, wait, timeout_s=None)).exit_status == 7
    await session.call(rpcs.TASKS_DELETE, tasks_pb2.DeleteTaskRequest(container_id="waits"))
    await session.call(rpcs.CONTAINERS_DELETE, containers_pb2.DeleteContainerRequest(id="waits"))


async def test_a_container_comes_back_as_it_was_made(session: Session) -> None:
    container = containers_pb2.Container(
        id="record",
        labels={"mill.task": "record", "mill.node": "n"},
        image="docker.io/library/x:1",
        runtime=containers_pb2.Container.Runtime(name="io.containerd.runc.v2", options=options()),
        spec=spec("true"),
        snapshotter=session.features.snapshotter,
        snapshot_key="record",
        extensions={"mill.spec": Any(type_url="mill", value=b"{}")},
    )
    await session.call(rpcs.CONTAINERS_CREATE, containers_pb2.CreateContainerRequest(container=container))
    got = (await session.call(rpcs.CONTAINERS_GET, containers_pb2.GetContainerRequest(id="record"))).container
    assert got.created_at.seconds > 1_700_000_000
    got.ClearField("created_at")
    got.ClearField("updated_at")
    assert got == container
    container.labels["mill.phase"] = "running"
    update = containers_pb2.UpdateContainerRequest(
        container=container, update_mask=FieldMask(paths=["labels.mill.phase"])
    )
    await session.call(rpcs.CONTAINERS_UPDATE, update)
    listing = containers_pb2.ListContainersRequest(filters=['labels."mill.phase"==running'])
    found = (await session.call(rpcs.CONTAINERS_LIST, listing)).containers
    assert [dict(one.labels) for one in found] == [dict(container.labels)]
    await session.call(rpcs.CONTAINERS_DELETE, containers_pb2.DeleteContainerRequest(id="record"))


async def test_a_layer_is_applied_committed_and_named(session: Session) -> None:
    name = session.features.snapshotter
    await session.call(rpcs.LEASES_CREATE, leases_pb2.CreateRequest(id="layer"))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("hello")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"world"))
    data = packed.getvalue()
    digest = await write(session, data, ref="layer", lease="layer")
    prepare = snapshots_pb2.PrepareSnapshotRequest(snapshotter=name, key="extract")
    mounts = (await session.call(rpcs.SNAPSHOTS_PREPARE, prepare, lease="layer")).mounts
    descriptor = types_pb2.Descriptor(
        media_type="application/vnd.oci.image.layer.v1.tar", digest=digest, size=len(data)
    )
    applied = await session.call(
        rpcs.DIFF_APPLY, diff_pb2.ApplyRequest(diff=descriptor, mounts=mounts), lease="layer"
    )
    assert applied.applied.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    commit = snapshots_pb2.CommitSnapshotRequest(
        snapshotter=name, name="chain", key="extract", labels={"a": "b"}
    )
    await session.call(rpcs.SNAPSHOTS_COMMIT, commit, lease="layer")
    stat = snapshots_pb2.StatSnapshotRequest(snapshotter=name, key="chain")
    info = (await session.call(rpcs.SNAPSHOTS_STAT, stat)).info
    assert (info.kind, dict(info.labels)) == (snapshots_pb2.COMMITTED, {"a": "b"})
    info.labels["c"] = "d"
    update = snapshots_pb2.UpdateSnapshotRequest(
        snapshotter=name, info=info, update_mask=FieldMask(paths=["labels.c"])
    )
    assert dict((await session.call(rpcs.SNAPSHOTS_UPDATE, update)).info.labels) == {"a": "b", "c": "d"}
    usage = await session.call(
        rpcs.SNAPSHOTS_USAGE, snapshots_pb2.UsageRequest(snapshotter=name, key="chain")
    )
    assert usage.size > 0 < usage.inodes
    view = snapshots_pb2.ViewSnapshotRequest(snapshotter=name, key="look", parent="chain")
    seen = await session.call(rpcs.SNAPSHOTS_VIEW, view, lease="layer")
    again = await session.call(
        rpcs.SNAPSHOTS_MOUNTS, snapshots_pb2.MountsRequest(snapshotter=name, key="look")
    )
    assert list(seen.mounts) == list(again.mounts)
    await named_and_forgotten(session, descriptor)
    for key in ("look", "chain"):
        await session.call(
            rpcs.SNAPSHOTS_REMOVE, snapshots_pb2.RemoveSnapshotRequest(snapshotter=name, key=key)
        )
    await session.call(rpcs.LEASES_DELETE, leases_pb2.DeleteRequest(id="layer", sync=True))
    with pytest.raises(RpcNotFound):
        await session.call(rpcs.CONTENT_INFO, content_pb2.InfoRequest(digest=digest))


async def named_and_forgotten(session: Session, target: types_pb2.Descriptor) -> None:
    image = images_pb2.Image(name="example.com/x:1", labels={"k": "v"}, target=target)
    await session.call(rpcs.IMAGES_CREATE, images_pb2.CreateImageRequest(image=image))
    got = (await session.call(rpcs.IMAGES_GET, images_pb2.GetImageRequest(name=image.name))).image
    assert (got.target, dict(got.labels), got.created_at.seconds > 0) == (target, {"k": "v"}, True)
    image.labels["k"] = "w"
    await session.call(
        rpcs.IMAGES_UPDATE,
        images_pb2.UpdateImageRequest(image=image, update_mask=FieldMask(paths=["labels.k"])),
    )
    listed = (await session.call(rpcs.IMAGES_LIST, images_pb2.ListImagesRequest())).images
    assert [dict(one.labels) for one in listed if one.name == image.name] == [{"k": "w"}]
    await session.call(rpcs.IMAGES_DELETE, images_pb2.DeleteImageRequest(name=image.name, sync=True))
    with pytest.raises(RpcNotFound):
        await session.call(rpcs.IMAGES_GET, images_pb2.GetImageRequest(name=image.name))


async def test_blobs_are_labelled_and_ingests_are_seen(session: Session) -> None:
    await session.call(rpcs.LEASES_CREATE, leases_pb2.CreateRequest(id="labels", labels={"x": "y"}))
    leases = (await session.call(rpcs.LEASES_LIST, leases_pb2.ListRequest(filters=["id==labels"]))).leases
    assert [dict(lease.labels) for lease in leases] == [{"x": "y"}]
    digest = await write(session, b"some bytes", ref="labels", lease="labels")
    info = content_pb2.Info(digest=digest, labels={"containerd.io/uncompressed": digest})
    update = content_pb2.UpdateRequest(info=info, update_mask=FieldMask(paths=["labels"]))
    updated = (await session.call(rpcs.CONTENT_UPDATE, update)).info
    assert (updated.size, dict(updated.labels)) == (10, dict(info.labels))
    resource = leases_pb2.Resource(id=digest, type="content")
    removal = leases_pb2.DeleteResourceRequest(id="labels", resource=resource)
    await session.call(rpcs.LEASES_DELETE_RESOURCE, removal)
    await session.call(
        rpcs.LEASES_ADD_RESOURCE, leases_pb2.AddResourceRequest(id="labels", resource=resource)
    )
    async with session.stream(rpcs.CONTENT_WRITE, lease="labels") as blob:
        await blob.send(content_pb2.WriteContentRequest(action=content_pb2.STAT, ref="open", total=9))
        await blob.receive()
        await blob.send(content_pb2.WriteContentRequest(action=content_pb2.WRITE, data=b"1234"))
        await blob.receive()
        status = (await session.call(rpcs.CONTENT_STATUS, content_pb2.StatusRequest(ref="open"))).status
        assert (status.ref, status.offset, status.total) == ("open", 4, 9)
        statuses = (
            await session.call(rpcs.CONTENT_LIST_STATUSES, content_pb2.ListStatusesRequest())
        ).statuses
        assert "open" in {one.ref for one in statuses}
    await forget_ingest(session, "open")
    await session.call(rpcs.LEASES_DELETE, leases_pb2.DeleteRequest(id="labels", sync=True))


async def test_the_server_names_itself(session: Session) -> None:
    answer = await session.call(rpcs.INTROSPECTION_SERVER, Empty())
    assert len(answer.uuid) == 36
