"""Changing the cluster's secret while it runs: whoever is asked for it reads all rings, has each node do what is due, and reads again.

It begins only when all nodes are there, and a majority stands behind their leader. Where it stops, because a node does not do its
part, all go on with what they have; asked again, on any node, it goes on. Which step is due says `security.rotation`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import TypeVar

import attrs
import structlog
import trio

from mill.api.peer_secret import Ordered, SecretState
from mill.api.problems import error_of
from mill.cluster.values import MemberState, NodeId
from mill.convert import from_json, to_json
from mill.daemon.cluster import Cluster
from mill.daemon.fleet import UNREADABLE
from mill.daemon.ring import Ring
from mill.errors import CallerError, Conflict, MillError, Unavailable
from mill.model import RotatedSecret
from mill.security import secret_file
from mill.security.keys import Secret, parse
from mill.security.rotation import RingView, Step, Work, begun, due

MOST_ROUNDS = 10
"""Readings of all rings in one change: four do, and a node that joins meanwhile may need some more."""
STEP_S = 10.0
"""For one node to take one step, or to tell its ring."""
ROTATE_S = 60.0
"""For a change that another node sees through."""
PATH = "/peer/secret"
ALONE = NodeId("")
"""What a node that is in no cluster is called among all of one."""

T = TypeVar("T")

log = structlog.get_logger()


@attrs.define(eq=False)
class Rotation:
    """As `api.peer_secret.OwnSecret`. *cluster* None: the node, which is called *name*, is alone."""

    ring: Ring
    _cluster: Cluster | None
    _name: str
    _busy: trio.Lock = attrs.field(factory=trio.Lock)

    # -- this node --------------------------------------------------------------------------------------------------

    def state(self) -> SecretState:
        return SecretState(RingView.of(self.ring.now), tuple(self._nodes()))

    async def obey(self, ordered: Ordered) -> None:
        try:
            key_id = bytes.fromhex(ordered.key_id)
            secret = parse(ordered.secret) if ordered.step is Step.INSTALL else None
        except ValueError:
            raise CallerError("another Mill's secret that this one cannot read") from None
        if secret is not None:
            await self.ring.change(lambda ring: ring.install(secret))
        elif ordered.step is Step.USE:
            await self.ring.change(lambda ring: ring.use(key_id))
        else:
            await self.ring.change(lambda ring: ring.remove(key_id))

    # -- all of them ------------------------------------------------------------------------------------------------

    async def rotate(self) -> RotatedSecret:
        """To a new secret; or, where a change has begun and was interrupted, to that one's."""
        try:
            self._busy.acquire_nowait()
        except trio.WouldBlock:
            raise Conflict("this node is changing the secret already: wait for that to end") from None
        try:
            rings = await self._rings()
            leads_to = begun(rings)
            secret = secret_file.make() if leads_to is None else self.ring.now.find(bytes.fromhex(leads_to))
            if secret is None:
                return await self._pass_on(rings, str(leads_to))
            return await self._see_through(rings, secret)
        finally:
            self._busy.release()

    async def _pass_on(self, rings: Mapping[str, RingView], key_id: str) -> RotatedSecret:
        """A change that has not come here yet is gone on with by a node that knows its secret: nobody asks for one."""
        for node, ring in rings.items():
            if key_id in ring.known and (cluster := self._beyond(node)) is not None:
                with _named(self._name_of(node)):
                    return await _ask(cluster, node, RotatedSecret, "POST", "/rotate", timeout_s=ROTATE_S)
        raise Conflict("others change the secret at this moment: try again")

    async def _see_through(self, rings: Mapping[str, RingView], secret: Secret) -> RotatedSecret:
        key_id = secret.key_id.hex()
        for _ in range(MOST_ROUNDS):
            work = due(rings, key_id)
            if not work:
                names = sorted(map(self._name_of, rings))
                log.info("the cluster's secret has changed", key=key_id, nodes=names)
                return RotatedSecret(key_id, tuple(names))
            for one in work:
                await self._do(one, secret)
            try:
                rings = await self._rings()
            except MillError as error:
                raise _stopped(f"after the step {work[0].step}", error) from None
        raise _stopped("between two steps", Conflict("others change it at the same time"))

    async def _do(self, work: Work, secret: Secret) -> None:
        ordered = Ordered(work.step, work.key_id, secret.text if work.step is Step.INSTALL else "")
        try:
            if (cluster := self._beyond(work.node)) is None:
                await self.obey(ordered)
            else:
                await _ask(cluster, work.node, SecretState, "POST", body=to_json(ordered), timeout_s=STEP_S)
        except MillError as error:
            name = self._name_of(work.node)
            raise _stopped(f"at the step {work.step} on {name}", error) from None

    # -- the nodes --------------------------------------------------------------------------------------------------

    async def _rings(self) -> dict[str, RingView]:
        """Of all nodes. `Conflict` or `Unavailable` where one is not there, or they are not whole."""
        self._check_whole()
        found, nodes = {}, self._nodes()
        for node in nodes:
            cluster = self._beyond(node)
            said = self.state()
            if cluster is not None:
                with _named(self._name_of(node)):
                    said = await _ask(cluster, node, SecretState, "GET", timeout_s=STEP_S)
            if not set(nodes).issuperset(said.nodes):
                raise Unavailable(
                    f"{self._name_of(node)} knows of a node that this one does not know yet: try again"
                )
            found[node] = said.ring
        return found

    def _check_whole(self) -> None:
        if self._cluster is None:
            return
        engine = self._cluster.engine
        for member in engine.members.values():
            if member.state not in {MemberState.ALIVE, MemberState.LEFT}:
                name, state = member.peer.name, member.state.name.lower()
                forget = "" if member.state.reachable else f", or give it up by 'mill nodes forget {name}'"
                raise Conflict(
                    f"{name} is {state}, and the secret is changed on all nodes or on none: wait until it is back{forget}"
                )
        led = engine.led
        behind = led is not None and led.leader is not None and (led.full or led.leader != self._cluster.me)
        if engine.partial or not behind:
            raise Unavailable(
                "this node sees no leader with a majority behind it: try again in a moment; 'mill status' says who leads"
            )

    def _nodes(self) -> list[str]:
        """All but those that have left, in the same order everywhere: of two changes at once one stops at the first node."""
        if self._cluster is None:
            return [ALONE]
        members = self._cluster.engine.members
        return sorted(node for node, one in members.items() if one.state is not MemberState.LEFT)

    def _beyond(self, node: str) -> Cluster | None:
        """The cluster by which to ask *node*; None for this one."""
        return None if self._cluster is None or node == self._cluster.me else self._cluster

    def _name_of(self, node: str) -> str:
        return self._name if self._cluster is None else self._cluster.news.name(NodeId(node))


async def _ask(
    cluster: Cluster,
    node: str,
    kind: type[T],
    method: str,
    path: str = "",
    *,
    body: object = None,
    timeout_s: float,
) -> T:
    """What *node* says; its problem as an error, or `Unavailable`."""
    content = b"" if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"content-type": "application/json"}
    try:
        asked = cluster.peers.open(
            NodeId(node), method, PATH + path, headers=headers, content=content, timeout_s=timeout_s
        )
        async with asked as answer:
            said = json.loads(await answer.read())
        if answer.status == HTTPStatus.OK:
            return from_json(kind, said)
        error = error_of(said)
    except UNREADABLE:
        raise Unavailable("it says what this node cannot read") from None
    if method == "GET" and answer.status == HTTPStatus.NOT_FOUND:
        raise Conflict("its Mill cannot change its secret: upgrade it first")
    raise error


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Whose problem it is."""
    try:
        yield
    except MillError as error:
        raise (Conflict if isinstance(error, CallerError) else Unavailable)(f"{name}: {error}") from None


def _stopped(where: str, error: MillError) -> Unavailable:
    return Unavailable(
        f"the change of the secret stopped {where}: {error}. All nodes go on, and understand each other; "
        "'mill nodes rotate-secret' again goes on with it"
    )
