"""Tasks that this node has not heard of, asked of all other nodes at once before anybody is told that they do not exist. DNS calls it.

Whatever clients ask, and however much, other nodes are asked about all of it together, with a pause between two rounds; and what
all of them deny is denied for as long as the answer lives.
"""

from ipaddress import ip_address

import attrs
import trio

from mill.api.peer_names import MOST_NAMES, NAMES
from mill.cluster.values import NodeId
from mill.config import ASK_ALL_S
from mill.daemon.doubt import Membership, who_could_know
from mill.daemon.fleet import ask_one
from mill.daemon.peers import Peers
from mill.dns.answer import TTL_S
from mill.dns.names import Known, Name, Unsure

PACE_S = 0.01
"""From one round to the next, for each node that is asked: at most a hundred requests a second go out of here..."""
LONGEST_PACE_S = 0.1
"""... or ten to each, which leaves a question two thirds of its time."""
MOST_DENIED = 4096
"""Names whose absence is remembered; each for a second."""
_PORTS = range(2**16)


@attrs.define(eq=False)
class _Question:
    """About one task, until *until*; `answer` counts once it is `done`."""

    task_id: str
    until: float
    answer: Name | Unsure | None = Known.UNSURE
    done: trio.Event = attrs.field(factory=trio.Event)


class Questions:
    """See the module."""

    def __init__(self, cluster: Membership, peers: Peers) -> None:
        self._cluster = cluster
        self._peers = peers
        self._open: dict[str, _Question] = {}
        self._next: list[_Question] = []
        self._more = trio.Event()
        self._denied: dict[str, float] = {}

    async def ask(self, task_id: str) -> Name | Unsure | None:
        """As `dns.responder.Ask`, within `ASK_ALL_S`. None: every node that could know has said that it does not."""
        now = trio.current_time()
        if self._denied.get(task_id, now) > now:
            return None
        question = self._open.get(task_id)
        if question is None:
            if len(self._open) >= MOST_NAMES:
                return Known.UNSURE
            question = self._open[task_id] = _Question(task_id, now + ASK_ALL_S)
            self._next.append(question)
            self._more.set()
        with trio.move_on_at(question.until):
            await question.done.wait()
        return question.answer

    async def serve(self, *, task_status: trio.TaskStatus["Questions"]) -> None:
        """Ask until cancelled."""
        async with trio.open_nursery() as rounds:
            task_status.started(self)
            while True:
                await self._more.wait()
                self._more = trio.Event()
                batch, self._next = self._next, []
                rounds.start_soon(self._round, batch)
                await trio.sleep(min(PACE_S * len(self._cluster.members), LONGEST_PACE_S))

    async def _round(self, batch: list[_Question]) -> None:
        silent = who_could_know(self._cluster, trio.current_time())
        with trio.move_on_at(batch[-1].until):
            async with trio.open_nursery() as nursery:
                for node, member in self._cluster.members.items():
                    if node != self._cluster.id and member.state.reachable:
                        nursery.start_soon(self._ask_one, node, batch, silent)
        for question in batch:
            del self._open[question.task_id]
            if not (silent or question.done.is_set()):
                question.answer = None
                self._deny(question.task_id)
            question.done.set()

    async def _ask_one(self, node: NodeId, batch: list[_Question], silent: set[NodeId]) -> None:
        asked = {"names": [question.task_id for question in batch]}
        found = await ask_one(self._peers, node, NAMES, _names, asked)
        if found is None:
            return
        silent.discard(node)
        for question in batch:
            if question.task_id in found:
                question.answer = found[question.task_id]
                question.done.set()

    def _deny(self, task_id: str) -> None:
        now = trio.current_time()
        if len(self._denied) >= MOST_DENIED:
            self._denied = {name: until for name, until in self._denied.items() if until > now}
        if len(self._denied) < MOST_DENIED:
            self._denied[task_id] = now + TTL_S


def _names(said: object) -> dict[str, Name]:
    """What a node has answered; raises one of `fleet.UNREADABLE`."""
    if not isinstance(said, dict):
        raise TypeError("it is no object")
    found = {}
    for task_id, name in said.items():
        if name["port"] not in _PORTS:
            raise ValueError(f"{name['port']!r} is no port")
        found[task_id] = Name(tuple(str(ip_address(each)) for each in name["addresses"]), name["port"])
    return found


async def serve(cluster: Membership, peers: Peers, *, task_status: trio.TaskStatus[Questions]) -> None:
    """See `Questions`."""
    await Questions(cluster, peers).serve(task_status=task_status)
