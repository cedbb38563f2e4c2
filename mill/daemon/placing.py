"""Where a new task goes. Who takes a spawn in asks the leader which nodes to try, and then tries them itself; each node's own
ledger decides. Wired by `cluster`; the API calls it.

One node alone sends orders for one request, one after the other: so a leader that dies in the midst leaves nothing open. What is
left open is an order whose answer did not come. It counts as refused, the next node gets another id, and the silent one is told
that it does not count until it has heard it: if it had made a task, that one ends.

A key is one request's at a time. The leader gives it out; without one the others are asked who is busy with it. Two parts of a
cluster that do not hear each other can still make a task each.
"""

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakValueDictionary

import attrs
import structlog
import trio

from mill.api.orders import Released, Sent, TakenBack
from mill.api.problems import error_of
from mill.cluster.claims import Mandate
from mill.cluster.outcomes import Led
from mill.cluster.values import NodeId
from mill.config import (
    ADMIT_S,
    ASK_ALL_S,
    KEY_PATIENCE_S,
    KEY_POLL_S,
    LEADER_S,
    MOST_OWNERS,
    WITHDRAW_AGAIN_S,
    WITHDRAW_S,
)
from mill.containerd import reference
from mill.convert import from_json, to_json
from mill.daemon.doubt import Membership
from mill.daemon.fleet import UNREADABLE, Fleet
from mill.daemon.offers import Offers
from mill.daemon.peers import Peers, Unreachable
from mill.errors import CallerError, Conflict, MillError, NoCapacity, Unavailable
from mill.model import Draft, Keyed, Record, Resources, SpawnRequest, Spec, Time
from mill.tasks.drafts import Choice, finish, lay_out, new_id
from mill.tasks.keyed import check_same
from mill.tasks.orders import Grants, Made, Order, Plan, Wanted
from mill.tasks.service import Tasks

FAILED = 500
"""Of a node with a bug: what it did is not known."""
ANYWHERE = ("/",)
"""Which paths may be mounted each node says for itself."""

log = structlog.get_logger()


class Cluster(Membership, Protocol):
    """As the cluster's engine has it, its orders carried out."""

    @property
    def led(self) -> Led | None:
        """Who leads, as far as this node knows."""

    async def obey(self, mandate: Mandate) -> bool:
        """Whether an order by *mandate* is to be carried out; what that makes this node promise is on disk by then."""


@attrs.define(eq=False)
class Placing:
    """As `api.core.Placement`. `now` is the wall clock."""

    _cluster: Cluster
    _fleet: Fleet
    _tasks: Tasks
    _peers: Peers
    _offers: Offers
    _choice: Choice
    _now: Callable[[], Time]
    _nursery: trio.Nursery
    _made: Made = attrs.field(factory=Made, init=False)
    _grants: Grants = attrs.field(factory=Grants, init=False)
    _turns: "WeakValueDictionary[str, trio.Lock]" = attrs.field(factory=WeakValueDictionary, init=False)

    # -- who takes a spawn in -------------------------------------------------------------------------------------------

    async def spawn(
        self, request: SpawnRequest, templates: Mapping[str, Draft], key: Keyed | None = None
    ) -> Record:
        if self._fleet.alone:
            return await self._tasks.spawn(request, templates, key)
        draft, template = lay_out(request, templates)
        spec = finish(draft, allow_mounts=ANYWHERE)
        order = Order(draft, self._now(), template, key)
        if key is None:
            return await self._place(order, spec)
        async with self._turns.setdefault(key.key, trio.Lock()):
            known = await self._known(key)
            return await self._place(order, spec) if known is None else known

    async def _known(self, key: Keyed) -> Record | None:
        """The task of *key*, if this node has heard of it, or has had it made; `Conflict`."""
        known = await self._tasks.keyed(key)
        if known is None and (known := self._made.get(key.key)) is not None:
            check_same(known, key)
        return known

    async def _place(self, order: Order, spec: Spec) -> Record:
        request = "".join(self._choice.choices("0123456789abcdef", k=32))
        image = str(reference.parse(spec.image))
        wanted = Wanted(request, self._cluster.id, spec.cpu, spec.memory, image, order.keyed)
        plan = await self._plan(wanted)
        if plan.known is not None:
            return plan.known
        try:
            record = await self._carry_out(order, spec, plan)
        except BaseException:
            if order.keyed is not None:
                self._give_back(plan, Released(order.keyed.key, request))
            raise
        if order.keyed is not None:
            self._made.add(order.keyed.key, record, trio.current_time())
        return record

    async def _plan(self, wanted: Wanted) -> Plan:
        """Once the key, if there is one, is not somebody else's."""
        until = trio.current_time() + KEY_PATIENCE_S
        while (plan := await self._ask_plan(wanted)).busy and wanted.keyed is not None:
            if trio.current_time() >= until:
                raise Unavailable("another spawn by this Idempotency-Key is not answered yet; try again")
            await trio.sleep(KEY_POLL_S)
            if (known := await self._heard(wanted.keyed, NodeId(plan.by))) is not None:
                return Plan(known=known)
        if plan.known is not None and wanted.keyed is not None:
            check_same(plan.known, wanted.keyed)
        return plan

    async def _heard(self, key: Keyed, by: NodeId) -> Record | None:
        """The task that another request has made by *key* meanwhile, by what has come here or by the word of who has taken it in."""
        known = await self._known(key)
        if known is None and by not in {"", self._cluster.id}:
            with suppress(Unavailable, *UNREADABLE):
                known = from_json(Plan, await self._ask(by, "key", key, LEADER_S)).known
        return known

    async def _ask_plan(self, wanted: Wanted) -> Plan:
        """The leader's, if it says one in time; without it: here, else wherever seems best."""
        led = self._cluster.led
        if led is not None and led.leader == self._cluster.id:
            return self._own_plan(wanted, led.mandate, mine=True)
        if led is not None and led.leader is not None:
            try:
                plan = from_json(Plan, await self._ask(led.leader, "place", wanted, LEADER_S))
                if plan != Plan():
                    return plan
            except (Unreachable, *UNREADABLE) as error:
                log.info("the leader does not say where a task goes", leader=led.leader[:8], why=str(error))
        found = None if wanted.keyed is None else await self._ask_for_key(wanted.keyed)
        if found is not None:
            return found
        return Plan((self._cluster.id, *self._others(wanted))[:MOST_OWNERS])

    def _others(self, wanted: Wanted) -> list[str]:
        try:
            ranked = self._offers.rank(Resources(wanted.cpu, wanted.memory), wanted.image, mine=True)
        except MillError:
            return []
        return [node for node in ranked if node != self._cluster.id]

    async def _ask_for_key(self, key: Keyed) -> Plan | None:
        """What the other nodes know of it. Of two that are busy with it the lower id goes first."""
        found: list[Plan] = []

        async def ask(node: NodeId) -> None:
            try:
                plan = from_json(Plan, await self._ask(node, "key", key, ASK_ALL_S))
            except (MillError, *UNREADABLE):
                return
            if plan.known is not None or (plan.busy and node < self._cluster.id):
                found.append(plan)

        with trio.move_on_after(ASK_ALL_S):
            async with trio.open_nursery() as nursery:
                for node in self._fleet.others():
                    nursery.start_soon(ask, node)
        return next((plan for plan in found if plan.known is not None), found[0] if found else None)

    async def _carry_out(self, order: Order, spec: Spec, plan: Plan) -> Record:
        """The first node that takes it; each is asked once."""
        refusals: list[tuple[NodeId, MillError]] = []
        nodes = [NodeId(node) for node in plan.nodes]
        for node in nodes:
            try:
                return await self._give(node, order, spec, plan)
            except MillError as error:
                refusals.append((node, error))
        if self._cluster.id not in nodes and any(isinstance(why, Unreachable) for _, why in refusals):
            try:
                return await self._tasks.admit(order)
            except MillError as error:
                refusals.append((self._cluster.id, error))
        raise self._refused(refusals)

    async def _give(self, node: NodeId, order: Order, spec: Spec, plan: Plan) -> Record:
        """The task, taken on by *node*; or why not. `Unreachable`: that it has not may be for it to hear yet."""
        if node == self._cluster.id:
            return await self._tasks.admit(order)
        task_id = new_id(spec.name, self._choice, lambda _: False)
        sent = Sent(attrs.evolve(order, task_id=task_id), plan.term, plan.leader)
        try:
            return from_json(Record, await self._ask(node, "admit", sent, ADMIT_S))
        except Unreachable as error:
            if error.begun:
                self._nursery.start_soon(self._take_back, node, task_id)
            raise

    def _refused(self, refusals: Collection[tuple[NodeId, MillError]]) -> MillError:
        """What the caller is told."""
        lasting = [
            why for _, why in refusals if isinstance(why, CallerError) and not isinstance(why, Conflict)
        ]
        if lasting and len(lasting) == len(refusals):
            return lasting[0]
        if [node for node, _ in refusals] == [self._cluster.id]:
            return next(why for _, why in refusals)
        said = "; ".join(f"{self._fleet.name_of(node)}: {why}" for node, why in refusals)
        full = any(isinstance(why, NoCapacity) for _, why in refusals)
        return (NoCapacity if full else Unavailable)(f"no node takes the task: {said}")

    async def _take_back(self, node: NodeId, task_id: str) -> None:
        """Tell *node* that the order does not count, until it has heard it or is no member any more."""
        log.warning(
            "a node may have taken on a task without a word; it is told to end it",
            node=node[:8],
            task=task_id,
        )
        with trio.move_on_after(WITHDRAW_S):
            while node in self._cluster.members:
                try:
                    await self._ask(node, "withdraw", TakenBack(task_id), ADMIT_S)
                except MillError:
                    await trio.sleep(WITHDRAW_AGAIN_S)
                else:
                    return

    def _give_back(self, plan: Plan, released: Released) -> None:
        """No task came of the key: whoever gave it out may give it to another."""
        if plan.leader == self._cluster.id:
            self.release(released.key, released.request)
        elif plan.leader:
            self._nursery.start_soon(self._tell, NodeId(plan.leader), "release", released)

    async def _tell(self, node: NodeId, what: str, said: Any) -> None:
        try:
            await self._ask(node, what, said, LEADER_S)
        except MillError as error:
            log.info("a node was not told", what=what, node=node[:8], why=str(error))

    async def _ask(self, node: NodeId, what: str, said: Any, timeout_s: float) -> Any:
        """The answer's JSON; the other node's problem as it was raised there."""
        body = json.dumps(to_json(said)).encode()
        headers = {"content-type": "application/json"}
        answer_by = trio.current_time() + timeout_s
        asked = self._peers.open(
            node, "POST", f"/peer/{what}", headers=headers, content=body, timeout_s=timeout_s
        )
        async with asked as answer:
            data = b""
            with trio.move_on_at(answer_by) as late:
                data = await answer.read()
            if late.cancelled_caught:
                raise Unreachable(f"node {node[:8]} did not answer within {timeout_s:g} s")
        parsed = json.loads(data) if data else None
        if answer.status == FAILED:
            raise Unreachable(f"node {node[:8]} failed to answer; its log has the details")
        if answer.status >= 400:  # noqa: PLR2004 -- RFC 9110
            raise error_of(parsed or {})
        return parsed

    # -- what other nodes ask -------------------------------------------------------------------------------------------

    async def plan(self, wanted: Wanted) -> Plan:
        led = self._cluster.led
        if led is None or led.leader != self._cluster.id:
            return Plan()
        plan = self._own_plan(wanted, led.mandate, mine=False)
        if wanted.keyed is None or plan.busy:
            return plan
        try:
            known = await self._known(wanted.keyed)
        except Conflict:
            self.release(wanted.keyed.key, wanted.request)
            raise
        if known is None:
            return plan
        self.release(wanted.keyed.key, wanted.request)
        return Plan(known=known)

    def _own_plan(self, wanted: Wanted, mandate: Mandate, *, mine: bool) -> Plan:
        key = wanted.keyed
        if key is not None:
            grant = self._grants.take(key.key, wanted.request, wanted.by, trio.current_time())
            if grant.request != wanted.request:
                return Plan(busy=True, by=grant.by)
        try:
            ranked = self._offers.rank(Resources(wanted.cpu, wanted.memory), wanted.image, mine=mine)
        except MillError:
            if key is not None:
                self.release(key.key, wanted.request)
            raise
        return Plan(tuple(ranked[:MOST_OWNERS]), mandate.term, mandate.leader)

    async def admit(self, order: Order, term: int, leader: str) -> Record:
        if term and not await self._cluster.obey(Mandate(term, NodeId(leader))):
            raise Conflict(f"node {leader[:8]} leads no longer: its orders of term {term} do not count")
        self._offers.arrived()
        return await self._tasks.admit(order)

    async def keyed(self, key: Keyed) -> Plan:
        lock = self._turns.get(key.key)
        busy = lock is not None and lock.locked()
        known = await self._known(key)
        return Plan(known=known, busy=busy and known is None, by=self._cluster.id)

    def release(self, key: str, request: str) -> None:
        self._grants.release(key, request)

    def withdraw(self, task_id: str) -> None:
        self._tasks.withdraw(task_id)


async def serve(
    cluster: Cluster,
    fleet: Fleet,
    tasks: Tasks,
    peers: Peers,
    offers: Offers,
    choice: Choice,
    now: Callable[[], Time],
    *,
    task_status: trio.TaskStatus[Placing],
) -> None:
    """Place tasks until cancelled. What is still to be taken back then, stays where it is."""
    async with trio.open_nursery() as nursery:
        task_status.started(Placing(cluster, fleet, tasks, peers, offers, choice, now, nursery))
        await trio.sleep_forever()
