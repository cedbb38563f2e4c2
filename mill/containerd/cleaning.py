"""Taking away what a task leaves in containerd, in the kernel and among milld's files, and finding what has no task any more.

Called by `runtime`, which owns the names. Every step finds nothing as gladly as something: any of it may be done twice.
"""

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path

import trio

from mill.containerd import rpcs
from mill.containerd.container import delete_task, patiently
from mill.containerd.faults import RpcError, RpcNotFound
from mill.containerd.node_cgroups import NodeCgroups
from mill.containerd.proto import containers_pb2, snapshots_pb2
from mill.containerd.rootfs import unmount
from mill.containerd.session import Session
from mill.containerd.spares import SPARE_LABEL

SHIM_SOCKETS = Path("/run/containerd/s")
"""Where containerd's shims listen; the name is a hash of containerd's socket, the namespace and the id."""
BUNDLES = "io.containerd.runtime.v2.task"
"""In containerd's state directory, and in its root: a folder for each namespace, and in it for each task."""
RUNTIME_STATE = "runc"
"""In the data directory, where the OCI runtime keeps its state: a folder for each namespace, and in it for each container."""
_UNPACKING = "extract-"
"""What the snapshots of a pull under way are called."""


async def clean_up(session: Session, cgroups: NodeCgroups, folder: Path, *, deleted: bool) -> str | None:
    """Kill, task, container, snapshot, cgroup, files, in this order, of the task that *folder* is named after.

    *deleted*: containerd has no task of it any more. Why something stays, or None.
    """
    task_id, refused = folder.name, None
    if not deleted:
        await delete_task(session, task_id, ended=False)
    container = containers_pb2.DeleteContainerRequest(id=task_id)
    snapshot = snapshots_pb2.RemoveSnapshotRequest(snapshotter=session.features.snapshotter, key=task_id)
    for removed in (
        lambda: session.call(rpcs.CONTAINERS_DELETE, container),
        lambda: session.call(rpcs.SNAPSHOTS_REMOVE, snapshot),
    ):
        try:
            await patiently(session, removed)
        except RpcNotFound:
            continue
        except RpcError as fault:  # its disk is full, say
            refused = fault.message
    await trio.to_thread.run_sync(_remove_files, session, cgroups, folder)
    return refused


def _remove_files(session: Session, cgroups: NodeCgroups, folder: Path) -> None:
    task_id = folder.name
    cgroups.remove(task_id)
    if folder.exists():
        unmount(folder / "rootfs")
        shutil.rmtree(folder, ignore_errors=True)
    # What an OCI runtime of the runc kind keeps of a container: left by one that was gone before it could delete it.
    shutil.rmtree(folder.parent.parent / RUNTIME_STATE / session.namespace / task_id, ignore_errors=True)
    for state in ("", "state", "root"):  # of a system's containerd, and of an embedded one
        bundle = Path(session.socket).parent / state / BUNDLES / session.namespace / task_id
        if (
            bundle.exists()
        ):  # containerd was killed, or the host, as it made the task, and it does not look again
            unmount(bundle / "rootfs")
            shutil.rmtree(bundle, ignore_errors=True)
    shim = hashlib.sha256(f"{session.socket}/{session.namespace}/{task_id}".encode()).hexdigest()
    (SHIM_SOCKETS / shim).unlink(missing_ok=True)  # a shim that was killed leaves it behind


async def owned(
    session: Session, cgroups: NodeCgroups, tasks: Path, node_id: str
) -> tuple[set[str], set[str]]:
    """The ids of all tasks that something is there of: containers, snapshots, cgroups, folders in *tasks*.

    Apart from them, those of which there is at most a layer that was made ahead.
    """
    label = f'labels."mill.node"=={node_id}'
    containers = await patiently(
        session,
        lambda: session.call(rpcs.CONTAINERS_LIST, containers_pb2.ListContainersRequest(filters=[label])),
    )
    request = snapshots_pb2.ListSnapshotsRequest(snapshotter=session.features.snapshotter, filters=[label])
    answers = await patiently(session, lambda: session.collect(rpcs.SNAPSHOTS_LIST, request))
    found = {container.id for container in containers.containers}
    layers = [info for answer in answers for info in answer.info if info.kind == snapshots_pb2.ACTIVE]
    found |= {info.name for info in layers if SPARE_LABEL not in info.labels}
    found |= cgroups.task_ids()
    found |= await trio.to_thread.run_sync(_names_in, tasks)
    spare = {info.name for info in layers if SPARE_LABEL in info.labels} - found
    return {task_id for task_id in found if not task_id.startswith(_UNPACKING)}, spare


def _names_in(folder: Path) -> set[str]:
    with suppress(OSError):
        return {path.name for path in folder.iterdir()}
    return set()
