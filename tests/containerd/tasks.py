"""Tasks on the shared containerd: a `Runtime` per node, FIFOs that the test holds, and what must be gone afterwards."""

import os
import platform
import time
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from mill.containerd import images as images_service
from mill.containerd import rpcs
from mill.containerd.cgroups import Cgroups
from mill.containerd.cleaning import SHIM_SOCKETS
from mill.containerd.container import TaskContainer
from mill.containerd.host import describe
from mill.containerd.images import Images
from mill.containerd.node_cgroups import NodeCgroups
from mill.containerd.proto import containers_pb2, snapshots_pb2, tasks_pb2
from mill.containerd.running import Running
from mill.containerd.runtime import Runtime
from mill.containerd.session import Session
from mill.containerd.spares import Spares
from mill.daemon.clock import SystemClock
from mill.model import Duration, Network, Owned, Record, Size, Spec, Status, Task, Time, Times
from mill.tasks.marks import Marks
from tests.images import OciImage, busybox_image, write_oci_archive

BUSYBOX = "example.com/runtime/busybox:1"
NODE_ID = "11111111-2222-4333-8444-555555555555"
OTHER_ID = "99999999-2222-4333-8444-555555555555"


@attrs.define
class Pipes:
    """FIFOs in a folder, each held open as the log holder does it."""

    stdout: Path
    stderr: Path
    held: list[int] = attrs.field(factory=list)

    @classmethod
    def make(cls, folder: Path) -> "Pipes":
        folder.mkdir(parents=True, exist_ok=True)
        pipes = cls(folder / "stdout", folder / "stderr")
        for path in (pipes.stdout, pipes.stderr):
            os.mkfifo(path)
            pipes.held.append(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        return pipes

    async def wait_held(self) -> None:
        await trio.lowlevel.checkpoint()

    def read(self) -> str:
        """What was written to stdout and not read yet."""
        try:
            return os.read(self.held[0], 65536).decode()
        except BlockingIOError:
            return ""

    async def wait_for(self, text: str) -> str:
        got = ""
        with trio.fail_after(20):
            while text not in got:
                await trio.lowlevel.wait_readable(self.held[0])
                got += self.read()
        return got

    def close(self) -> None:
        for descriptor in self.held:
            os.close(descriptor)


@attrs.define
class Lab:
    """What a test needs to run tasks; `shell` and `task` make them, `left` tells what of a task is still there."""

    session: Session
    images: Images
    data_dir: Path
    clock: SystemClock
    pipes: dict[str, Pipes] = attrs.field(factory=dict)
    number: int = 0

    @classmethod
    async def open(cls, nursery: trio.Nursery, session: Session, data_dir: Path) -> "Lab":
        serve = partial(images_service.serve, session, node_id=NODE_ID, now=time.time, registries={})
        images: Images = await nursery.start(serve)
        lab = cls(session, images, data_dir, SystemClock.read())
        if await images.find(BUSYBOX) is None:
            await lab.load(BUSYBOX, busybox_image())
        return lab

    async def load(self, name: str, image: OciImage) -> None:
        archive = await trio.to_thread.run_sync(write_oci_archive, self.data_dir / "image.tar", {name: image})
        await self.images.load(archive, name=None)

    def runtime(self, node_id: str = NODE_ID) -> Runtime:
        """As a milld makes it; the second one of a node is the next milld."""
        cgroups = Cgroups.detect()
        return Runtime(
            session=self.session,
            images=self.images,
            clock=self.clock,
            node_id=node_id,
            node_name="node-1",
            data_dir=self.data_dir / node_id[:8],
            runtime="runc",
            ip="127.0.0.1",
            allow_mounts=(str(self.data_dir / "shared"),),
            cgroups=NodeCgroups(cgroups, node_id[:8]),
            host=describe(platform.machine(), cgroups),
            running=Running(self.clock),
            spares=Spares(self.session, node_id, lambda name: f"{name}-spare", self.clock.boottime),
        )

    def task(self, *args: str, env: dict[str, str] | None = None, **fields: Any) -> Task:
        self.number += 1
        task_id = f"rt-{os.getpid()}-{self.number}"
        fields = {
            "image": BUSYBOX,
            "name": "rt",
            "network": Network.HOST,
            "memory": Size(64 * 2**20),
            "cpu": 0.5,
            "timeout": Duration(60),
            **fields,
        }
        record = Record(
            id=task_id,
            spec=Spec(**{"args": args or None, **fields}),
            status=Status.STARTING,
            node="node-1",
            node_id=NODE_ID,
            address=f"{task_id}.mill:8080",
            times=Times(self.clock.now()),
        )
        return Task(record, Owned(env=env or {}))

    def shell(self, script: str, **fields: Any) -> Task:
        return self.task("sh", "-c", script, **fields)

    async def start(self, runtime: Runtime, task: Task, marks: Marks | None = None) -> TaskContainer:
        image = await runtime.find_image(task.record.spec)
        assert image is not None
        made = Pipes.make(self.data_dir / "fifos" / task.record.id)
        self.pipes[task.record.id] = made

        async def open_pipes() -> Pipes:
            await trio.lowlevel.checkpoint()
            return made

        with trio.fail_after(30):
            return await runtime.start(task, image, open_pipes, marks or Marks())

    async def said(self, runtime: Runtime, task: Task) -> str:
        """What *task* prints, its end and its cleaning awaited."""
        container = await self.start(runtime, task)
        assert (await container.wait()).code == 0, self.pipes[task.record.id].read()
        text = self.pipes[task.record.id].read()
        await container.delete()
        await runtime.clean_up(task.record.id)
        return text

    async def left(self, runtime: Runtime, task_id: str) -> list[str]:
        """Everything of the task that can still be found."""
        snapshotter = self.session.features.snapshotter
        listed = await self.session.call(rpcs.CONTAINERS_LIST, containers_pb2.ListContainersRequest())
        tasks = await self.session.call(rpcs.TASKS_LIST, tasks_pb2.ListTasksRequest())
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=snapshotter)
        snapshots = await self.session.collect(rpcs.SNAPSHOTS_LIST, request)
        found = [f"container {one.id}" for one in listed.containers if one.id == task_id]
        found += [f"task {one.id}" for one in tasks.tasks if one.id == task_id]
        found += [
            f"snapshot {one.name}" for answer in snapshots for one in answer.info if one.name == task_id
        ]
        if task_id in runtime.cgroups.task_ids():
            found.append(f"cgroup of {task_id}")
        found += [f"files {path}" for path in runtime.data_dir.rglob(f"*{task_id}*")]
        mounted = await trio.Path("/proc/self/mountinfo").read_text()
        found += [f"mount {line}" for line in mounted.splitlines() if task_id in line]
        return found

    async def close(self) -> None:
        """Whatever a failed test left."""
        for node_id in (NODE_ID, OTHER_ID):
            runtime = self.runtime(node_id)
            await runtime.sweep(lambda _: False)
            runtime.cgroups.remove_node()
        for pipes in self.pipes.values():
            pipes.close()


def shim_sockets() -> set[str]:
    return {path.name for path in SHIM_SOCKETS.iterdir()} if SHIM_SOCKETS.is_dir() else set()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- the listing itself is one of them, always


def later(moment: Time | None, than: Time | None) -> bool:
    return moment is not None and than is not None and moment >= than
