"""The other nodes, for an API that answers for all: which of them owns a task, and the way to it. As `api.core.Fleet`. Wired by `cluster`."""

import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol, TypeVar
from urllib.parse import quote
from uuid import UUID

import attrs
import structlog
import trio

from mill.api.core import Elsewhere
from mill.api.forward import CALLER, SCOPE
from mill.cluster.values import MemberState, NodeId
from mill.config import ASK_TASK_S, USAGE_S
from mill.convert import from_json
from mill.daemon.doubt import Membership, who_could_know
from mill.daemon.peers import Answer, Peers, Unreachable
from mill.errors import Unavailable
from mill.model import Record, Scope, Status, Task, Usage
from mill.tasks.table import Table

OK, NOT_FOUND = 200, 404
UNREADABLE = (ExceptionGroup, ValueError, LookupError, TypeError, AttributeError)
"""What an answer raises that only another Mill understands."""
AS_MILLD: Mapping[str, str] = {CALLER: "milld", SCOPE: Scope.READ}
"""For what a node asks on its own account."""

T = TypeVar("T")

log = structlog.get_logger()


class Known(Protocol):
    """As `store.Store`: the records of all nodes, as far as they have come here."""

    async def get(self, task_id: str) -> Task | None: ...


@attrs.define(eq=False)
class Fleet:
    """See the module. `now` is the clock of the members' `since`."""

    _cluster: Membership
    _known: Known
    _table: Table
    _peers: Peers
    _now: Callable[[], float]

    @property
    def partial(self) -> bool:
        return self._cluster.partial

    @property
    def alone(self) -> bool:
        """No other node was ever heard of."""
        return len(self._cluster.members) <= 1

    async def elsewhere(self, task_id: str) -> Elsewhere | None:
        """By this node's own records; a task that is newer than what has come here is asked for among the others."""
        if (self.alone and not self.partial) or self._table.get(task_id) is not None:
            return None
        task = await self._known.get(task_id)
        record = await self._ask_all(task_id) if task is None else task.record
        if record is None or (owner := node_of(record)) == self._cluster.id:
            return None
        member = self._cluster.members.get(owner)
        return Elsewhere(owner, record, doubted=member is None or member.state is not MemberState.ALIVE)

    async def _ask_all(self, task_id: str) -> Record | None:
        """What the first says that knows it; None once all have said that they do not. `Unavailable` for who cannot be sure."""
        found: list[Record] = []
        unsure = who_could_know(self._cluster, self._now())

        async def ask(node: NodeId) -> None:
            path = f"/v1/tasks/{quote(task_id, safe='')}"
            try:
                async with self._peers.open(node, "GET", path, headers=AS_MILLD) as answer:
                    said = await read_json(answer)
                    if answer.status == OK:
                        found.append(from_json(Record, said))
                        nursery.cancel_scope.cancel()
                    elif answer.status == NOT_FOUND:
                        unsure.discard(node)
            except (Unreachable, *UNREADABLE) as error:
                log.debug("a node does not say whether it knows a task", node=node[:8], why=str(error))

        with trio.move_on_after(ASK_TASK_S):
            async with trio.open_nursery() as nursery:
                for node in self.others():
                    nursery.start_soon(ask, node)
        if not found and (task := await self._known.get(task_id)) is not None:
            return task.record  # gossip was faster
        if not found and unsure:
            raise Unavailable(
                f"no task {task_id[:80]!r} is known here yet, and {self._who_did_not_say(unsure)}; try again"
            )
        return found[0] if found else None

    async def usage(self, records: Collection[Record]) -> Mapping[str, Usage]:
        """What those that run on other nodes use now, by id; nothing of a node that does not say so within `USAGE_S`."""
        found: dict[str, Usage] = {}

        async def ask(node: NodeId) -> None:
            said = await ask_one(self._peers, node, "/peer/usage", partial(from_json, dict[str, Usage]))
            found.update(said or {})

        running = {node_of(record) for record in records if record.status is Status.RUNNING}
        with trio.move_on_after(USAGE_S):
            async with trio.open_nursery() as nursery:
                for node in running.intersection(self.others()):
                    nursery.start_soon(ask, node)
        return found

    def others(self) -> list[NodeId]:
        """Who can be asked now."""
        members = self._cluster.members
        return [node for node, one in members.items() if node != self._cluster.id and one.state.reachable]

    def _who_did_not_say(self, unsure: set[NodeId]) -> str:
        if self._cluster.id in unsure:
            return "this node has found no other yet"
        return f"{', '.join(sorted(map(self.name_of, unsure)))} did not say"

    @asynccontextmanager
    async def open(
        self,
        node: str,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        content: bytes | AsyncIterator[bytes] = b"",
        timeout_s: float | None,
    ) -> AsyncIterator[Answer]:
        if (why := self._silence(NodeId(node))) is not None:
            raise Unavailable(why)
        try:
            asked = self._peers.open(
                NodeId(node), method, path, headers=headers, content=content, timeout_s=timeout_s
            )
            async with asked as answer:
                yield answer
        except Unreachable as error:
            name = self.name_of(NodeId(node))
            raise Unavailable(f"node {name} is unreachable: {error}") from None

    def name_of(self, node: NodeId) -> str:
        member = self._cluster.members.get(node)
        return node[:8] if member is None else member.peer.name

    def _silence(self, node: NodeId) -> str | None:
        """Why *node* need not be asked."""
        member = self._cluster.members.get(node)
        if member is None:
            return f"node {node[:8]} is not of the cluster any more"
        if member.state.reachable:
            return None
        told = {
            MemberState.AWAY: "has stopped for a while",
            MemberState.LEFT: "has left the cluster",
        }.get(member.state, "does not answer")
        since = max(0.0, self._now() - member.since)
        return f"node {member.peer.name} {told}, since {since:.0f} s"


def node_of(record: Record) -> NodeId:
    """The owner, as the cluster calls it."""
    return NodeId(UUID(record.node_id).hex)


async def ask_one(
    peers: Peers, node: NodeId, path: str, read: Callable[[object], T], asked: object = None
) -> T | None:
    """What *node* says to that, with *asked* as its body if there is one; None if it is silent, is just starting, or of another Mill."""
    content = b"" if asked is None else json.dumps(asked).encode()
    headers = {} if asked is None else {"content-type": "application/json"}
    method = "GET" if asked is None else "POST"
    try:
        async with peers.open(node, method, path, headers=headers, content=content) as answer:
            said = await read_json(answer)
            return read(said) if answer.status == OK else None
    except (Unreachable, *UNREADABLE) as error:
        log.debug("a node does not say what it was asked", node=node[:8], path=path, why=str(error))
        return None


async def read_json(answer: Answer) -> object:
    return json.loads(await answer.read())
