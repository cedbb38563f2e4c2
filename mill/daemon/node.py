"""One node: every component wired to the others, in one tree of nurseries whose nesting is the order of shutdown.

The only module that knows all packages. A component is a `serve` function; it is started once what it needs is there, and
cancelled after all that need it.
"""

import os
import platform
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from random import SystemRandom
from socket import socket as Socket  # noqa: N812 -- a class
from typing import Any
from uuid import UUID

import attrs
import structlog
import trio

from mill import __version__
from mill.api import app as api_app
from mill.api import server as api_server
from mill.api.core import Core
from mill.api.server import Load
from mill.config import STARTS_PER_CORE, Config
from mill.containerd import embedded, images, runtime, session
from mill.containerd import host as containerd_host
from mill.containerd.cgroups import Cgroups
from mill.containerd.images import Images
from mill.containerd.node_cgroups import NodeCgroups, check_systemd
from mill.containerd.running import Running
from mill.containerd.runtime import Runtime
from mill.containerd.session import Session
from mill.containerd.spares import Spares
from mill.daemon import cluster, datadir, host, meters, questions, rebuild, shared, soundness
from mill.daemon.clock import SystemClock
from mill.daemon.cluster import Cluster, Doors
from mill.daemon.everywhere import answer_for_all
from mill.daemon.joining import Joined, fixed_peers, join
from mill.daemon.layers import Layer, running
from mill.daemon.meters import Meters
from mill.daemon.metrics import Levels, Metrics
from mill.daemon.names import TaskNames
from mill.daemon.nodes import Nodes
from mill.daemon.questions import Questions
from mill.daemon.replicated import Replicated
from mill.daemon.ring import Ring
from mill.daemon.room import Room
from mill.daemon.rotation import Rotation
from mill.daemon.templates import Templates
from mill.dns import listener as dns_listener
from mill.dns import service as dns_service
from mill.dns.listener import Listener
from mill.dns.names import Zone
from mill.dns.service import Dns
from mill.errors import SetupError
from mill.logs import retention
from mill.logs import store as log_store
from mill.logs.store import Logs
from mill.model import NodeState, NodeStatus
from mill.network import service as network
from mill.network.service import Mesh
from mill.security.channel import ApiTls, Channels
from mill.security.keys import Keyring
from mill.security.secret_file import SECRET_NAME, read_given
from mill.security.secret_file import read_or_make as read_ring
from mill.security.tokens import Tokens
from mill.store import Store
from mill.store import serve as serve_store
from mill.tasks import service as task_service
from mill.tasks.drafts import Choice, new_id
from mill.tasks.events import Events
from mill.tasks.lifecycle import World
from mill.tasks.orders import Identity
from mill.tasks.service import Tasks
from mill.units import DNS_PORT

log = structlog.get_logger()

AUTO = "auto"
EMBEDDED = "embedded"
DOCKER_CONFIG = ".docker/config.json"
"""Below root's home, where `docker login` leaves credentials."""


@attrs.frozen
class Ready:
    """What a node that is ready has to say."""

    node: str
    api: str
    containerd: str
    dns: str


async def serve_node(
    config: Config, shutdown: Callable[[], Awaitable[object]], *, task_status: trio.TaskStatus[Ready]
) -> None:
    """One node until *shutdown* returns; containers run on. `SetupError` when it cannot start."""
    clock = SystemClock.read()
    async with AsyncExitStack() as layers:  # each layer is closed before the ones above it

        async def layer(serve: Callable[..., Awaitable[None]], *args: Any, **options: Any) -> Any:
            return await layers.enter_async_context(running(serve, *args, **options))

        given = read_given(config.secret_file, config.secret)
        sock, dns_port, doors = _bind(config, layers)
        config = config if doors is None else attrs.evolve(config, advertise=doors.membership.address)
        counted: Meters = await layer(meters.serve)
        cgroups = _cgroups(config)
        containerd, pulled = await _containerd(config, layer, clock, counted)
        store = await _store(config, clock, layer)
        ring = _ring(config, given, clock)
        joined: Joined | None = None
        if doors is not None:
            joined, config = await join(config, doors, store, ring, clock, shutdown, layers, layer)
        mesh: Mesh = await layer(network.serve, _mesh(config))
        made = _runtime(config, containerd, pulled, clock, cgroups, mesh)
        engine: Runtime = await layer(runtime.serve, made)
        logs: Logs = await layer(log_store.serve, config.data_dir, clock.now)
        member, held = (None, None) if joined is None else (joined.cluster, joined.store)
        tasks = await _tasks(config, store, held, engine, mesh, logs, clock, counted, layer)
        own = TaskNames(tasks.table, engine.ip, mesh.ip_of)
        names = await _dns(config, dns_port, own, joined, mesh, counted, layer)
        templates, tokens = await shared.load(config, store, member, clock.now)
        metrics = Metrics(counted, _levels(tasks, engine, logs, names, mesh, load := Load(), member))
        rotation = Rotation(ring, member, engine.node_name)
        nodes = await Nodes.load(store, tasks, engine, clock.now(), rotation, member)
        core = _core(config, nodes, tasks, logs, Events(store), engine, templates, tokens, clock, metrics)
        core = await answer_for_all(joined, core, own, store, tasks, nodes, engine.images.names, clock, layer)
        if joined is not None:
            await layer(joined.subnets.lead, mesh)
        tls = None if _on_loopback(sock) else ApiTls(ring.channels)
        await layer(api_server.serve, api_app.make_app(core), sock, load, tls)
        datadir.publish_api(config.data_dir, address := _address(sock), ring.channels.trusted_pem)
        task_status.started(Ready(engine.node_name, address, engine.session.socket, dns_port.shown))
        await shutdown()
        if member is not None:
            member.go(for_good=nodes.state is NodeState.DRAINED)


def _bind(config: Config, layers: AsyncExitStack) -> tuple[Socket, Listener, Doors | None]:
    """Ports that others have are told before anything is made."""
    sock = layers.enter_context(api_server.bind(config.listen))
    return (
        sock,
        layers.enter_context(dns_listener.bind(config.dns_listen)),
        cluster.bind(config, layers),
    )


async def _tasks(
    config: Config,
    store: Store,
    held: Replicated | None,
    engine: Runtime,
    mesh: Mesh,
    logs: Logs,
    clock: SystemClock,
    counted: Meters,
    layer: Layer,
) -> Tasks:
    """The node's own, which all hear of if it is in a cluster, and beside them those of the others."""
    me = Identity(engine.node_id, engine.node_name, engine.ip, config.allow_mounts)
    world = World(engine, logs, clock, trio.CapacityLimiter(_starts_at_once()), mesh)
    await rebuild.rebuild(store, engine.session, engine.node_id, told=config.rebuild_records)
    room = Room(config.data_dir, lambda: engine.session.features.stores, clock.boottime)
    serve = partial(task_service.serve, room=room, on_commit=counted.on_commit)
    if held is not None:
        await held.catch_up()
    tasks: Tasks = await layer(serve, me, host.capacity_of(config), held or store, world, SystemRandom())
    if held is not None:
        tasks.others = held.others
        await layer(held.serve, tasks, config.log_retention_secs)
    engine.images.holds.ask_tasks(tasks.images)
    limits = {"max_bytes": config.log_max_bytes, "retention_s": config.log_retention_secs}
    await layer(retention.serve, logs, tasks, **limits)
    return tasks


async def _containerd(
    config: Config, layer: Layer, clock: SystemClock, counted: Meters
) -> tuple[Session, Images]:
    """Nothing is written before it has answered."""
    socket = await _containerd_socket(config, layer)
    containerd: Session = await layer(session.serve, socket, on_call=counted.on_call)
    pulled: Images = await layer(
        images.serve,
        containerd,
        node_id=datadir.node_id(config.data_dir),
        now=clock.now,
        registries=config.registries,
        docker_config=config.docker_config or Path.home() / DOCKER_CONFIG,
        max_bytes=config.image_max_bytes,
    )
    return containerd, pulled


async def _dns(
    config: Config,
    port: Listener,
    names: TaskNames,
    joined: Joined | None,
    mesh: Mesh,
    counted: Meters,
    layer: Layer,
) -> Dns:
    """Names answer as the table has them: on the host's port, and for tasks at their gateway."""
    serve = partial(dns_service.serve, upstreams=config.dns_upstream, on_asked=counted.on_asked)
    if joined is not None:
        held = joined.store
        names = attrs.evolve(names, others=held.others, ended=held.has_ended, partial=held.is_partial)
        asked: Questions = await layer(questions.serve, joined.seat, joined.cluster.peers)
        serve = partial(serve, ask=asked.ask)
    zone = Zone(names, names.address, config.mesh_cidr)
    served: Dns = await layer(serve, zone, SystemRandom(), listens=[port])
    try:
        await served.listen(f"{mesh.gateway}:{DNS_PORT}")
    except SetupError as error:
        log.warning("tasks of network mesh have the host's resolvers, and no names of tasks", why=str(error))
    else:
        mesh.nameserver = str(mesh.gateway)
    return served


async def _containerd_socket(config: Config, layer: Layer) -> str:
    """The socket to talk to; our own containerd is started if there is to be one."""
    found: str | None = config.containerd
    if config.containerd == AUTO:
        found = await embedded.find_system_socket()
    if found in {None, EMBEDDED}:
        found = await layer(embedded.serve, config.data_dir)
    return str(found)


async def _store(config: Config, clock: SystemClock, layer: Layer) -> Store:
    path = config.data_dir / "mill.db"
    if config.rebuild_records:
        await trio.to_thread.run_sync(rebuild.set_aside_damaged, path, clock.now())
    store: Store = await layer(serve_store, path)
    await layer(soundness.serve, path)
    return store


def _cgroups(config: Config) -> Cgroups:
    """The host's, once it is known that they can be had as configured."""
    found = Cgroups.detect()
    if config.systemd_cgroup:
        check_systemd(found, config.runtime)
    return found


def _mesh(config: Config) -> network.Setup:
    """What the configuration says of the network."""
    return network.Setup(
        node_id=datadir.node_id(config.data_dir),
        data_dir=config.data_dir,
        range=config.mesh_cidr,
        underlay=host.address_of(config),
        subnet=config.mesh_subnet,
        link=config.mesh_link,
        port=config.mesh_port,
        peers=fixed_peers(config),
    )


def _runtime(
    config: Config,
    containerd: Session,
    pulled: Images,
    clock: SystemClock,
    cgroups: Cgroups,
    mesh: Mesh,
) -> Runtime:
    node_id = datadir.node_id(config.data_dir)
    own = NodeCgroups(cgroups, node_id[:8], config.systemd_cgroup)
    return Runtime(
        session=containerd,
        images=pulled,
        clock=clock,
        node_id=node_id,
        node_name=host.name_of(config),
        data_dir=config.data_dir,
        runtime=config.runtime,
        ip=host.address_of(config),
        cgroups=own,
        allow_mounts=config.allow_mounts,
        host=containerd_host.describe(platform.machine(), cgroups, own.annotations),
        running=Running(clock),
        spares=Spares(containerd, node_id, partial(_further_id, SystemRandom()), clock.boottime),
        mesh=mesh,
    )


def _further_id(choice: Choice, name: str) -> str:
    """What a further task of that name may be called; whether it is free shows when it is spawned."""
    return new_id(name, choice, lambda _: False)


def _core(
    config: Config,
    nodes: Nodes,
    tasks: Tasks,
    logs: Logs,
    events: Events,
    engine: Runtime,
    templates: Templates,
    tokens: Tokens,
    clock: SystemClock,
    metrics: Metrics,
) -> Core:
    """What the API is given of the node."""
    return Core(
        tasks=tasks,
        logs=logs,
        events=events,
        images=engine.images,
        templates=templates,
        tokens=tokens,
        nodes=nodes,
        status=partial(_status, nodes, tasks, engine),
        healthy=lambda: engine.session.connected,
        metrics=metrics.page,
        on_answer=metrics.meters.on_answer,
        now=clock.now,
        uploads=_uploads(config.data_dir),
        version=__version__,
    )


def _levels(
    tasks: Tasks, engine: Runtime, logs: Logs, names: Dns, mesh: Mesh, load: Load, member: Cluster | None
) -> Levels:
    """What is read anew for each scrape."""
    return Levels(
        node=engine.node_name,
        tasks=tasks,
        session=engine.session,
        flights=engine.images.flights,
        registry=engine.images.puller.registry,
        logs=logs,
        dns=names,
        ports=mesh.ports,
        load=load,
        refused={} if member is None else member.gossip.refusals,
    )


def _uploads(data_dir: Path) -> Path:
    """Where archives go that are being uploaded, without those whose upload a crash has cut off."""
    folder = data_dir / "uploads"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _starts_at_once() -> int:
    return STARTS_PER_CORE * len(os.sched_getaffinity(0))


def _status(nodes: Nodes, tasks: Tasks, engine: Runtime) -> NodeStatus:
    return NodeStatus(
        node=engine.node_name,
        node_id=engine.node_id,
        version=__version__,
        containerd=engine.session.features.version,
        runtime_ok=engine.session.connected,
        capacity=tasks.ledger.capacity,
        reserved=tasks.ledger.reserved,
        tasks=Counter(str(live.record.status) for live in tasks.table),
        started=nodes.started,
        state=nodes.state,
        nodes=nodes.count(),
        leader=nodes.leader_name,
        partial=nodes.partial,
    )


def _ring(config: Config, given: Keyring | None, clock: SystemClock) -> Ring:
    """The cluster's secret, and what this node speaks TLS by, which is made of it."""
    read = read_ring(config.data_dir / SECRET_NAME, given)
    names = ("localhost", *host.names(), host.name_of(config), *config.tls_names)
    channels = Channels(read, UUID(datadir.node_id(config.data_dir)).hex, names, clock.now)
    return Ring(config.data_dir, read, channels)


def _on_loopback(sock: Socket) -> bool:
    return ip_address(sock.getsockname()[0]).is_loopback


def _address(sock: Socket) -> str:
    """The URL that `mill` on this host reaches the API by."""
    name, port = sock.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(name, f"[{name}]" if ":" in name else name)
    return f"{'http' if _on_loopback(sock) else 'https'}://{reachable}:{port}"
