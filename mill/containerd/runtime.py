"""Tasks as containers of containerd: start, adopt, clean up, measure. What `tasks.ports.Runtime` asks for.

Owns the names of what it makes: container, snapshot and task carry the task's id; the cgroup is where `node_cgroups` says; files
are in ``<data dir>/tasks/<id>``; everything in containerd is labelled with the node's id. Knows containerd and cgroups, not
the lifecycle; the daemon makes it. Over 400 lines because it is one container's whole way, made, found again and gone.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import structlog
import trio
from google.protobuf.any_pb2 import Any as AnyMessage

from mill.checks import parse_signal
from mill.config import SAMPLE_INTERVAL_S
from mill.containerd import cleaning, rpcs, shims, users, volumes
from mill.containerd.cgroups import Meter
from mill.containerd.container import TaskContainer, patiently, process_of, started_at
from mill.containerd.failures import start_error
from mill.containerd.faults import RpcAlreadyExists, RpcError, RpcNotFound, RpcTimeout, RpcUnavailable
from mill.containerd.host import make_folders, resolve_mounts, with_files, write_files
from mill.containerd.images import Images, LocalImage
from mill.containerd.kept import TASK_EXTENSION
from mill.containerd.node_cgroups import NodeCgroups
from mill.containerd.proto import containers_pb2, runc_pb2, task_pb2, tasks_pb2, types_pb2
from mill.containerd.rootfs import Looks, look
from mill.containerd.running import Running
from mill.containerd.session import Session
from mill.containerd.spares import Spares, prepare, remove
from mill.containerd.spec import CPU_PERIOD_US, Host, arguments, build, cpu_quota_us, environment
from mill.containerd.together import finishing, together
from mill.convert import to_json
from mill.errors import Interrupted, StartError
from mill.model import Network, PullProgress, Spec, Stats, Status, Task, Time, Usage
from mill.tasks.marks import Marks
from mill.tasks.ports import Attachment, Clock, Mesh, OpenPipes

SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
RESOURCES_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
RUNC_SHIM = "io.containerd.runc.v2"
SIGTERM = 15
TASKS_NAME = "tasks"
"""In the data directory, a folder for each task that has a container."""
STARTED_NAME = "started"
"""Among a task's files once its container is made: from here on its PID 1 may have run."""
CREATE_PATIENCE_S = 1.0
"""For a creation that nobody wants any more; it takes 0.05 s, and containerd takes 2 s to undo half of one."""
CONNECT_PATIENCE_S = 3.0
"""How long a spawn waits for a containerd that is being restarted, or hangs, before it answers 503."""
FRESH_S = 1.0
"""How long an image that was seen counts as present, while this node's store does not change."""

log = structlog.get_logger()


@attrs.define(eq=False)
class Runtime:
    """As `tasks.ports.Runtime`, over one containerd session."""

    session: Session
    images: Images
    clock: Clock
    node_id: str
    node_name: str
    data_dir: Path
    runtime: str
    ip: str
    cgroups: NodeCgroups
    allow_mounts: tuple[str, ...]
    _host: Host
    _running: Running
    _spares: Spares
    _mesh: Mesh | None = None
    _looks: Looks = attrs.field(factory=Looks)
    _found: dict[str, tuple[float, LocalImage]] = attrs.field(factory=dict)
    _found_changes: int = 0
    _deleted: set[str] = attrs.field(factory=set)
    """Tasks that containerd has deleted and that are not cleaned up yet."""

    async def find_image(self, spec: Spec) -> LocalImage | None:
        """Asked of containerd, unless it was there a moment ago: of twenty spawns at once, one asks."""
        await self._require_connection()
        now = self.clock.boottime()
        if self._found_changes != self.images.changes:
            self._found, self._found_changes = {}, self.images.changes
        at, image = self._found.get(spec.image, (-FRESH_S, None))
        if image is None or now - at >= FRESH_S:
            with trio.move_on_after(CONNECT_PATIENCE_S) as patience:
                image = await self.images.find(spec.image)
            if patience.cancelled_caught:
                raise RpcUnavailable("UNAVAILABLE", f"it has not answered for {CONNECT_PATIENCE_S:g} s")
            self._found = {ref: seen for ref, seen in self._found.items() if now - seen[0] < FRESH_S}
            if image is not None:
                self._found[spec.image] = (now, image)
        return image

    def ready_id(self, spec: Spec) -> str | None:
        return self._spares.id_for(spec.name, spec.image)

    async def pull(self, spec: Spec, on_progress: Callable[[PullProgress], None], marks: Marks) -> LocalImage:
        """The image; one that is there already is found without the network unless the policy says otherwise."""
        image = await self.images.ensure(spec.image, spec.pull, on_progress=on_progress)
        marks.note(fetched=image.fetched, unpack_began=image.unpack_began)
        return image

    async def start(self, task: Task, image: Any, open_pipes: OpenPipes, marks: Marks) -> TaskContainer:
        """A started container. Tried again when containerd goes away half-way, as long as PID 1 was not started."""
        self.images.use(image.ref)
        while True:
            container = await self._create(task, image, open_pipes, marks)
            began = self.clock.now(), self.clock.boottime()  # not after the call: it may have ended by then
            try:
                meter = await self._begin(task.record.id)
            except (RpcUnavailable, RpcTimeout):
                found = await self.adopt(task)
                if found is not None:
                    return found
            except RpcError as fault:
                raise start_error(fault, arguments(task.record.spec, image.config)[0]) from None
            else:
                marks.note(launched=self.clock.now())
                self._spares.want(task.record.spec.name, task.record.spec.image, image.chain_id)
                return container(*began, meter)

    async def _begin(self, task_id: str) -> Meter:
        """PID 1 runs; what must outlive its control group is opened while containerd is at it."""
        meter = self.cgroups.meter(task_id)

        async def keep() -> None:
            meter.keep()

        request = tasks_pb2.StartRequest(container_id=task_id)
        try:
            await together(partial(self.session.call, rpcs.TASKS_START, request), keep)
        except BaseException:
            meter.close()
            raise
        return meter

    async def _create(
        self, task: Task, image: LocalImage, open_pipes: OpenPipes, marks: Marks
    ) -> Callable[[Time, float, Meter], TaskContainer]:
        """A created container, made anew as often as containerd goes away meanwhile: nothing of the user's has run."""
        while True:
            try:
                return await finishing(
                    partial(self._try_create, task, image, open_pipes, marks), within_s=CREATE_PATIENCE_S
                )
            except (RpcUnavailable, RpcTimeout):
                await self.clean_up(task.record.id)
            except RpcError as fault:
                raise start_error(fault, arguments(task.record.spec, image.config)[0]) from None

    async def _try_create(
        self, task: Task, image: LocalImage, open_pipes: OpenPipes, marks: Marks
    ) -> Callable[[Time, float, Meter], TaskContainer]:
        """What does not need each other is done at once: it is a fifth of what a start takes besides the runtime's work."""
        task_id, spec = task.record.id, task.record.spec
        if spec.mounts:
            real = await trio.to_thread.run_sync(resolve_mounts, spec.mounts, self.allow_mounts)
            spec = attrs.evolve(spec, mounts=real)
        folder, stop_signal = (
            self._folder(task_id),
            _stop_signal(spec.stop_signal or image.config.stop_signal),
        )
        place = await self._place(task_id, spec)
        record = partial(self._create_record, task, spec, image, stop_signal, place)
        first: list[Callable[[], Awaitable[Any]]] = [
            partial(self._snapshot, task_id, spec, image, marks),
            open_pipes,
            partial(trio.to_thread.run_sync, write_files, folder, task_id, spec, self.ip, place),
        ]
        if _look_of(image) in self._looks.seen:
            mounts, pipes, *_ = await together(*first, record)
        else:
            mounts, pipes, _ = await together(*first)
            await record()
        created = await self.session.call(
            rpcs.TASKS_CREATE,
            tasks_pb2.CreateTaskRequest(
                container_id=task_id, rootfs=mounts, stdout=str(pipes.stdout), stderr=str(pipes.stderr)
            ),
        )
        marks.note(container_made=self.clock.now())
        if self._mesh is not None:
            self._mesh.entered(task_id)
        await together(
            partial(trio.to_thread.run_sync, self._mark(task_id).touch),
            partial(self._limit_cpu, task_id, cpu_quota_us(spec.cpu)),
            pipes.wait_held,
        )
        return partial(self._container, task_id, stop_signal, spec, created.pid)

    async def _place(self, task_id: str, spec: Spec) -> Attachment | None:
        """Of a task in the mesh: a network namespace with an address."""
        if spec.network is not Network.MESH:
            return None
        if self._mesh is None:
            raise StartError("runtime", "this node has no mesh network: spawn with --network host or none")
        return await self._mesh.attach(task_id)

    async def _config(
        self, task: Task, spec: Spec, image: LocalImage, place: Attachment | None
    ) -> dict[str, Any]:
        """The container's config.json; its image was looked into. *spec* is the record's, mounts resolved."""
        task_id, seen = task.record.id, self._looks.seen[_look_of(image)]
        user = users.resolve(spec.user or image.config.user, seen.accounts)
        own = {
            "PORT": str(spec.port),
            "MILL_TASK_ID": task_id,
            "MILL_TASK_ADDRESS": task.record.address,
            "MILL_TASK_NODE": self.node_name,
        }
        env = environment(task_id, image.config, user, own, task.owned.env)
        namespace = place.namespace if place else None
        host = with_files(self._host, self._folder(task_id), self.cgroups.asked(task_id), namespace)
        binds = volumes.binds(seen.folders, spec, str(self._folder(task_id)))
        if binds:
            await trio.to_thread.run_sync(make_folders, binds, user)
        return build(task_id, spec, image.config, user, env, attrs.evolve(host, volumes=binds))

    async def _snapshot(
        self, task_id: str, spec: Spec, image: LocalImage, marks: Marks
    ) -> list[types_pb2.Mount]:
        """The mounts of a writable layer over the image, which is looked into when it is new."""
        mounts = await self._prepare(task_id, spec, image.chain_id)
        marks.note(snapshot_made=self.clock.now())
        if (key := _look_of(image)) not in self._looks.seen:
            self._looks.keep(
                key, await trio.to_thread.run_sync(look, mounts, self._folder(task_id) / "rootfs", key[1])
            )
        return mounts

    async def _limit_cpu(self, task_id: str, quota_us: int) -> None:
        """Before the first instruction of the task's program; by containerd where that is not ours to do."""
        try:
            self.cgroups.limit_cpu(task_id, quota_us, CPU_PERIOD_US)
        except OSError:
            resources = json.dumps({"cpu": {"quota": quota_us, "period": CPU_PERIOD_US}}).encode()
            packed = AnyMessage(type_url=RESOURCES_TYPE, value=resources)
            await self.session.call(
                rpcs.TASKS_UPDATE, tasks_pb2.UpdateTaskRequest(container_id=task_id, resources=packed)
            )

    async def _prepare(self, task_id: str, spec: Spec, chain_id: str) -> list[types_pb2.Mount]:
        """The task's writable layer: a spare one, or made now."""
        spare = self._spares.take(spec.name, spec.image, task_id, chain_id)
        if spare is not None:
            return spare
        try:
            return await prepare(self.session, self.node_id, task_id, chain_id)
        except (
            RpcAlreadyExists
        ):  # made ahead on what the image was before; its record is being made meanwhile
            await remove(self.session, task_id)
            return await prepare(self.session, self.node_id, task_id, chain_id)

    async def _create_record(
        self, task: Task, spec: Spec, image: LocalImage, stop_signal: int, place: Attachment | None
    ) -> None:
        """The container's record in containerd; it carries ours, so that the records can be rebuilt without SQLite."""
        config = json.dumps(await self._config(task, spec, image, place)).encode()
        kept = json.dumps({"record": to_json(task.record), "owned": to_json(task.owned)}).encode()
        container = containers_pb2.Container(
            id=task.record.id,
            labels={
                "mill.node": self.node_id,
                "mill.task": task.record.id,
                "mill.stop-signal": str(stop_signal),
            },
            image=image.ref,
            runtime=self._shim(),
            spec=AnyMessage(type_url=SPEC_TYPE, value=config),
            snapshotter=self.session.features.snapshotter,
            snapshot_key=task.record.id,
            extensions={TASK_EXTENSION: AnyMessage(type_url=TASK_EXTENSION, value=kept)},
        )
        await self.session.call(
            rpcs.CONTAINERS_CREATE, containers_pb2.CreateContainerRequest(container=container)
        )

    def _shim(self) -> containers_pb2.Container.Runtime:
        """Runc and what is called like it by containerd's runc shim; others (runsc) by a shim of their own name."""
        if self.runtime == "runsc":
            return containers_pb2.Container.Runtime(name="io.containerd.runsc.v1")
        options = runc_pb2.Options(
            binary_name=self.runtime,
            root=str(self.data_dir / cleaning.RUNTIME_STATE),
            systemd_cgroup=self.cgroups.systemd,
        )
        packed = AnyMessage(type_url="containerd.runc.v1.Options", value=options.SerializeToString())
        return containers_pb2.Container.Runtime(name=RUNC_SHIM, options=packed)

    def _container(
        self,
        task_id: str,
        stop_signal: int,
        spec: Spec,
        pid: int,
        started: Time,
        began_s: float,
        meter: Meter,
    ) -> TaskContainer:
        ip = self.ip if spec.network is Network.HOST else self._mesh.ip_of(task_id) if self._mesh else None
        container = TaskContainer(
            task_id, started, began_s, stop_signal, meter, self.session, self._has_deleted, ip
        )
        if pid:
            self._running.add(container, spec.memory)
        return container

    async def adopt(self, task: Task) -> TaskContainer | None:
        """As the port says: what containerd still has of the task decides."""
        task_id = task.record.id
        if (running := self._running.get(task_id)) is not None:
            return running
        process = await process_of(self.session, task_id)
        try:
            record = await patiently(
                self.session,
                lambda: self.session.call(
                    rpcs.CONTAINERS_GET, containers_pb2.GetContainerRequest(id=task_id)
                ),
            )
        except RpcNotFound:
            await self._undo(task_id)
            return None
        if process is None:
            began = await self._may_have_begun(task)
            await self._undo(task_id)
            if not began:
                return None
            raise Interrupted(
                "its container has no process any more: the host was rebooted or the runtime lost it"
            )
        if (
            process.status == task_pb2.CREATED
        ):  # known only as long as it is there: its mark goes before it does
            await trio.to_thread.run_sync(partial(self._mark(task_id).unlink, missing_ok=True))
            await self.clean_up(task_id)
            return None
        stop_signal = _stop_signal(record.container.labels.get("mill.stop-signal", ""))
        ended = process.status == task_pb2.STOPPED
        found, began_s = started_at(process, self.clock, ended=ended)
        started, pid = task.record.times.started or found, 0 if ended else process.pid
        meter = self.cgroups.meter(task_id)
        meter.keep()
        return self._container(task_id, stop_signal, task.record.spec, pid, started, began_s, meter)

    async def _undo(self, task_id: str) -> None:
        """Nothing is left of a start that an earlier milld did not live to finish, nor is containerd at it any more."""
        await shims.wait_none(self.session.socket, self.session.namespace, task_id)
        await self.clean_up(task_id)

    async def _may_have_begun(self, task: Task) -> bool:
        """Whether PID 1 may have been started, of a task that containerd has no process of: only in doubt it has.

        Our mark is set before the call to start, and survives milld; after a reboot nobody knows what came to the disk.
        """
        spawned = task.owned.pull_deadline
        same_boot = spawned is not None and spawned.boot_id == self.clock.boot_id
        if task.record.status is not Status.STARTING or not same_boot:
            return True
        return await trio.to_thread.run_sync(self._mark(task.record.id).exists)

    def _has_deleted(self, task_id: str) -> None:
        self._running.forget(task_id)
        self._deleted.add(task_id)

    async def clean_up(self, task_id: str) -> str | None:
        """Whatever is left of the task goes."""
        self._running.forget(task_id)
        deleted = task_id in self._deleted
        why = await cleaning.clean_up(self.session, self.cgroups, self._folder(task_id), deleted=deleted)
        if why is None and self._mesh is not None:
            self._mesh.detach(task_id)
        if why is None:
            self._deleted.discard(task_id)
        return why

    async def sweep(self, known: Callable[[str], bool]) -> list[str]:
        """Whatever carries this node's id and belongs to no known task; layers made ahead are not worth telling."""
        found, spare = await cleaning.owned(
            self.session, self.cgroups, self.data_dir / TASKS_NAME, self.node_id
        )
        stray = sorted(task_id for task_id in found | spare if not known(task_id))
        for task_id in stray:
            await self.clean_up(task_id)
        return [task_id for task_id in stray if task_id in found]

    def usage(self) -> Mapping[str, Usage]:
        return self._running.usage()

    def stats(self, task_id: str) -> Stats | None:
        return self._running.stats(task_id)

    async def _require_connection(self) -> None:
        if not self.session.connected:
            with trio.move_on_after(CONNECT_PATIENCE_S):
                await self.session.wait_connected()
                return
            raise RpcUnavailable(
                "UNAVAILABLE", f"nothing answers on {self.session.socket}; it is tried again all the time"
            )

    def _folder(self, task_id: str) -> Path:
        return self.data_dir / TASKS_NAME / task_id

    def _mark(self, task_id: str) -> Path:
        return self._folder(task_id) / STARTED_NAME


def _look_of(image: LocalImage) -> tuple[str, tuple[str, ...]]:
    return image.chain_id, volumes.names(image.config.volumes)


def _stop_signal(text: str) -> int:
    try:
        return parse_signal(text) if text else SIGTERM
    except ValueError:  # an image may say anything
        return SIGTERM


async def serve(runtime: Runtime, *, task_status: trio.TaskStatus[Runtime]) -> None:
    """Sample the running tasks until cancelled; then leave them running."""
    runtime.images.stock.let_go = runtime._spares.drop  # noqa: SLF001 -- its own module
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime._spares.keep)  # noqa: SLF001 -- its own module
            task_status.started(runtime)
            await runtime._running.sample_all(SAMPLE_INTERVAL_S)  # noqa: SLF001 -- its own module
    finally:
        runtime._running.close()  # noqa: SLF001 -- its own module
        runtime.cgroups.remove_node()
