"""The mesh: an address and a network namespace for every task that wants one, and the node's bridge kept in order.

`serve` is a component of the node; what it hands out fits `tasks.ports.Mesh`. Who holds an address is written beside the
task's other files, so that it is known after any end of milld and goes with them. What cannot be made (a kernel without
bridges, say) is a `fault` that spawns are told; it is tried again all the time.
"""

import errno
import os
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path

import attrs
import structlog
import trio

from mill.errors import MORE_FILES, OUT_OF_FILES, NoCapacity, SetupError, StartError, Unavailable
from mill.model import Network, Spec
from mill.network.addresses import Leases, Peer
from mill.network.kernel import NETFILTER, Netlink
from mill.network.links import Links, living, open_links
from mill.network.pool import Pool, Ready
from mill.network.publish import Ports
from mill.network.rules import Rules
from mill.network.worker import Worker
from mill.tasks.ports import Attachment

ADDRESS_NAME = "address"
"""Among a task's files, as `containerd.host` writes them: the address that it holds."""
SUBNET_NAME = "subnet"
"""In the data directory: this node's part of the range."""
CHECK_S = 3.0
"""Between two looks whether everything is still in place. 0.5 ms each."""
REAP_S = 1.0
"""After its task's end the kernel removes a namespace by itself, within some 50 ms; what is left then is cut off."""
LOCK_S = 15.0
"""For another milld of this host that chooses its subnet at this moment."""
_LOCK = "\0mill-network"
"""An abstract unix socket: there is one of that name in each network namespace, and it goes with its process."""
_ADVICE = {
    "bridge": "modprobe bridge, or spawn with --network host",
    "rules": "modprobe nf_tables nft_masq nf_nat, or spawn with --network host",
    "veth": "modprobe veth, or spawn with --network host",
}

log = structlog.get_logger()


@attrs.frozen
class Setup:
    """What the configuration says of the network. *subnet* None: the first that is free; *link* as ``--mesh-link``."""

    node_id: str
    data_dir: Path
    range: IPv4Network
    underlay: str
    subnet: IPv4Network | None = None
    link: str = "vxlan"
    port: int = 4789
    peers: tuple[Peer, ...] = ()


@attrs.define(eq=False)
class Mesh:
    """As `tasks.ports.Mesh`."""

    _setup: Setup
    _worker: Worker
    _links: Links
    _rules: Rules
    _leases: Leases
    ports: Ports
    _pool: Pool = attrs.field(init=False)
    fault: str | None = None
    """Why no task can have a network now."""
    nameserver: str | None = None
    """What answers names at the gateway, once something does; else tasks have the host's resolvers."""
    _reserved: set[str] = attrs.field(factory=set)
    _attached: dict[str, Ready] = attrs.field(factory=dict)
    """Namespaces that a task was given and may not have entered yet."""
    _dying: dict[str, IPv4Address] = attrs.field(factory=dict)
    _made: int = 0

    def __attrs_post_init__(self) -> None:
        self._pool = Pool(self._make)

    @property
    def gateway(self) -> IPv4Address:
        return self._links.gateway

    @property
    def subnet(self) -> IPv4Network:
        return self._links.subnet

    # -- for the service of tasks -----------------------------------------------------------------------------------

    def reserve(self, task_id: str, spec: Spec) -> Spec:
        if spec.network is not Network.MESH:
            return spec
        if self.fault is not None:
            raise Unavailable(f"the mesh network is not available on this node: {self.fault}")
        if len(self._reserved) >= self._leases.capacity:
            raise NoCapacity(self._leases.exhausted)
        ports = self.ports.reserve(task_id, spec.publish)
        self._reserved.add(task_id)
        self._allot(task_id)
        return attrs.evolve(spec, publish=ports) if ports else spec

    def _allot(self, task_id: str) -> None:
        """An address from the spawn on, with a ready namespace if there is one: its name is asked for before it starts."""
        ready = self._pool.take_nowait()
        if ready is not None:
            self._leases.pass_on(ready.holder, task_id)
            self._attached[task_id] = ready
        else:
            with suppress(NoCapacity):  # the last ones are still being freed: the start waits for one
                self._leases.take(task_id)

    def rename(self, task_id: str, other: str) -> None:
        if task_id in self._reserved:
            self._reserved.remove(task_id)
            self._reserved.add(other)
            self.ports.rename(task_id, other)
            if task_id in self._leases:
                self._leases.pass_on(task_id, other)
            if task_id in self._attached:
                self._attached[other] = self._attached.pop(task_id)

    def adopt(self, task_id: str, spec: Spec) -> None:
        if spec.network is not Network.MESH:
            return
        self._reserved.add(task_id)
        self.ports.adopt(task_id, spec.publish)
        if (address := self._leases.of(task_id)) is not None:
            self.ports.serve(task_id, address)
        else:
            self._allot(task_id)

    def release(self, task_id: str) -> None:
        self._reserved.discard(task_id)
        self.ports.release(task_id)
        self.detach(task_id)

    # -- for the runtime --------------------------------------------------------------------------------------------

    async def attach(self, task_id: str) -> Attachment:
        ready = self._attached.get(task_id) or await self._namespace_for(task_id)
        self._attached[task_id] = ready
        self.ports.serve(task_id, ready.address)
        return Attachment(str(ready.address), ready.path, self.nameserver)

    async def _namespace_for(self, task_id: str) -> Ready:
        """Of the address that the task was allotted; a start that is tried again gets another one."""
        address = self._leases.of(task_id)
        if address is None:
            ready = await self._pool.take()
            self._leases.pass_on(ready.holder, task_id)
            return ready
        try:
            return Ready(task_id, address, await self._worker.run(lambda: self._links.attach(address)))
        except OSError as error:
            raise StartError("runtime", f"no network namespace can be made: {error.strerror}") from None

    def entered(self, task_id: str) -> None:
        ready = self._attached.pop(task_id, None)
        if ready is not None:
            os.close(ready.descriptor)

    def ip_of(self, task_id: str) -> str | None:
        address = self._leases.of(task_id)
        return None if address is None else str(address)

    def detach(self, task_id: str) -> None:
        self.entered(task_id)
        address = self._leases.of(task_id)
        if address is not None:
            holder = f"{task_id} until {address} is free"  # no id: those hold no spaces
            self._leases.pass_on(task_id, holder)
            self._dying[holder] = address

    # -- other nodes ------------------------------------------------------------------------------------------------

    async def set_peers(self, peers: Iterable[Peer]) -> None:
        """These are the other nodes from now on. `Unavailable` if the ways to them could not all be made: ask again."""
        others = tuple(peers)
        try:
            await self._worker.run(lambda: self._links.set_peers(others, self._setup.link))
        except OSError as error:
            raise Unavailable(f"the kernel refuses them ({error.strerror})") from None

    # -- what it does by itself -------------------------------------------------------------------------------------

    async def _make(self) -> Ready:
        holder = f"ready {self._made}"
        self._made += 1
        address = self._leases.take(holder)
        try:
            descriptor = await self._worker.run(lambda: self._links.attach(address))
        except BaseException:
            self._leases.give_back(holder)
            raise
        return Ready(holder, address, descriptor)

    async def check(self) -> None:
        """Everything in place, or `fault` says what is not."""
        fault = None
        for what, ensure in (("bridge", self._links.ensure), ("rules", self._rules.ensure)):
            try:
                await self._worker.run(ensure)
            except OSError as error:
                short = error.errno in OUT_OF_FILES
                fault = (
                    MORE_FILES
                    if short
                    else f"the kernel refuses its {what} ({error.strerror}): {_ADVICE[what]}"
                )
                break
        if fault != self.fault:
            log.warning(
                "the mesh network is not available" if fault else "the mesh network is back", why=fault
            )
        self.fault = fault

    async def _check_all(self) -> None:
        while True:
            await trio.sleep(CHECK_S)
            await self.check()

    async def _reap(self) -> None:
        """The addresses of ended tasks become free once nothing answers there any more."""
        while True:
            await trio.sleep(REAP_S)
            if self._dying:
                gone, self._dying = self._dying, {}
                kept = [address for holder, address in self._leases.held().items() if holder not in gone]
                try:
                    await self._worker.run(partial(self._links.sweep, kept))
                except OSError as error:
                    log.warning("links of ended tasks are left", why=error.strerror)
                for holder in gone:
                    self._leases.give_back(holder)
                self._pool.refresh()

    async def _leave(self) -> None:
        """Ready namespaces go with their descriptors; all else too, unless tasks run on."""
        self.ports.close()
        for task_id in list(self._attached):
            self.entered(task_id)
        for ready in self._pool.close():
            self._leases.give_back(ready.holder)
        running = [holder for holder in self._leases.held() if " " not in holder]
        try:
            if running or self._reserved:
                return
            await self._worker.run(self._rules.remove)
            await self._worker.run(self._links.remove)
        except OSError as error:
            log.warning("something of the network is left; the next milld removes it", why=error.strerror)
        finally:
            self._rules.close()
            self._links.close()


def _held(data_dir: Path) -> dict[str, IPv4Address]:
    """Who holds which address, by the tasks' files."""
    found = {}
    for path in data_dir.glob(f"tasks/*/{ADDRESS_NAME}"):
        try:
            found[path.parent.name] = IPv4Address(path.read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError, AddressValueError):
            continue
    return found


def stored_subnet(data_dir: Path) -> IPv4Network | None:
    """The part of the range that this node had when it last ran; blocks for a file."""
    try:
        return IPv4Network((data_dir / SUBNET_NAME).read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None


def _open(setup: Setup, held: dict[str, IPv4Address]) -> Links:
    """The node's links on the subnet that it is given, had before, or finds; `SetupError`."""
    stored = stored_subnet(setup.data_dir)
    wanted = setup.subnet or stored
    running = living(setup.node_id, held.values())
    if wanted is not None and not wanted.subnet_of(setup.range):
        if setup.subnet is not None:
            raise SetupError(f"--mesh-subnet {wanted} is no part of --mesh-cidr {setup.range}")
        wanted = None
    make = partial(
        open_links, setup.node_id, setup.range, overlay=setup.link != "routes", underlay=setup.underlay, port=setup.port
    )  # fmt: skip
    peers = [peer.subnet for peer in setup.peers]
    links = make(subnet=wanted, fixed=setup.subnet is not None or bool(running), peers=peers)
    elsewhere = [address for address in running if address not in links.subnet]
    if elsewhere:
        links.close()
        old = stored or "another range"
        message = f"{len(elsewhere)} tasks still run with addresses of {old}: end them first, or keep --mesh-cidr as it was"
        raise SetupError(message)
    try:
        (setup.data_dir / SUBNET_NAME).write_text(f"{links.subnet}\n", encoding="ascii")
    except OSError as error:
        links.close()
        raise SetupError(
            f"cannot write {setup.data_dir / SUBNET_NAME}: {error.strerror}; see --data-dir"
        ) from None
    return links


@asynccontextmanager
async def _alone() -> AsyncIterator[None]:
    """No other milld of this network namespace chooses its subnet meanwhile."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as lock:
        with trio.move_on_after(LOCK_S):
            while True:
                try:
                    lock.bind(_LOCK)
                    break
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise
                await trio.sleep(0.05)
        yield


async def serve(setup: Setup, *, task_status: trio.TaskStatus[Mesh]) -> None:
    """The node's network until cancelled; then what no running task needs is removed. `SetupError` for a bad range."""
    worker = Worker()
    try:
        async with trio.open_nursery() as connections:
            mesh = await _start(setup, worker, connections)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(mesh._pool.refill)  # noqa: SLF001 -- its own module
                    nursery.start_soon(mesh._check_all)  # noqa: SLF001 -- its own module
                    nursery.start_soon(mesh._reap)  # noqa: SLF001 -- its own module
                    task_status.started(mesh)
            finally:  # what they were at has come to its end
                connections.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await mesh._leave()  # noqa: SLF001 -- its own module
    finally:
        worker.stop()


async def _start(setup: Setup, worker: Worker, nursery: trio.Nursery) -> Mesh:
    held = _held(setup.data_dir)
    async with _alone():
        links = await worker.run(lambda: _open(setup, held))
        leases = Leases(links.subnet, held.items())
        rules = await worker.run(lambda: _rules(links))
        mesh = Mesh(setup, worker, links, rules, leases, Ports(nursery))
        await mesh.check()
    if mesh.fault is None:
        await worker.run(lambda: links.sweep(held.values()))
        try:
            await mesh.set_peers(setup.peers)
        except Unavailable as error:  # the checks try again
            log.warning("the ways to other nodes could not be made yet", why=str(error))
    return mesh


def _rules(links: Links) -> Rules:
    return Rules(Netlink.open(NETFILTER), links.names.table, links.names.bridge, links.range, links.subnet)
