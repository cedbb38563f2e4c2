"""What goes from who takes a spawn to who runs it: the order, and the task's first row made of it. Pure.

An order has all that was decided before a node is found: the template is laid in, the moment of asking is noted. Where it goes
to another node it brings the id along, by which it can be withdrawn: who does not hear what became of it must not leave two
tasks behind. The service carries orders out; the daemon sends them.
"""

import attrs

from mill.config import GRANT_S, WITHDRAWN_KEPT
from mill.model import Deadline, Draft, Kept, Keyed, Owned, Record, Spec, Status, Task, Time, Times


@attrs.frozen
class Identity:
    """Who this node is: what its tasks' records carry."""

    node_id: str
    name: str
    ip: str
    allow_mounts: tuple[str, ...] = ()


@attrs.frozen
class Order(Kept):
    """`task_id` None: the node chooses."""

    draft: Draft
    created: Time
    template: str | None = None
    keyed: Keyed | None = None
    task_id: str | None = None


@attrs.frozen
class Wanted(Kept):
    """What the leader is told of a task that needs a node: nothing of what it runs but the image, none of its environment.

    `request` is what the receiver, `by`, calls it by itself.
    """

    request: str
    by: str
    cpu: float
    memory: int
    image: str
    keyed: Keyed | None = None


@attrs.frozen
class Plan(Kept):
    """Which nodes to ask, best first, by the mandate (`term`, `leader`); term 0: without one.

    `known`: the task that the key has made before. `busy`: another request, taken in by the node `by`, has that key: ask again.
    """

    nodes: tuple[str, ...] = ()
    term: int = 0
    leader: str = ""
    known: Record | None = None
    busy: bool = False
    by: str = ""


@attrs.frozen
class Grant:
    """The key is that request's, of the node `by`, to make a task by, until then."""

    request: str
    by: str
    until: float


@attrs.define
class Grants:
    """Which request each key was given to, by the one node that gives out places. Who got none waits, or hears of the task."""

    _given: dict[str, Grant] = attrs.field(factory=dict)

    def take(self, key: str, request: str, by: str, now: float) -> Grant:
        """Whose the key is from now on: that request's, unless it was another's."""
        for old in [other for other, grant in self._given.items() if grant.until <= now]:
            del self._given[old]
        return self._given.setdefault(key, Grant(request, by, now + GRANT_S))

    def release(self, key: str, request: str) -> None:
        """No task came of it: the next one may try."""
        if (grant := self._given.get(key)) is not None and grant.request == request:
            del self._given[key]


@attrs.define
class Made:
    """The tasks that keys made by way of this node, for as long as it may take until their records have come here."""

    _records: dict[str, tuple[Record, float]] = attrs.field(factory=dict)

    def add(self, key: str, record: Record, now: float) -> None:
        for old in [other for other, (_, until) in self._records.items() if until <= now]:
            del self._records[old]
        self._records[key] = record, now + GRANT_S

    def get(self, key: str) -> Record | None:
        found = self._records.get(key)
        return None if found is None else found[0]


def first_task(
    order: Order, task_id: str, spec: Spec, status: Status, me: Identity, placed: Time, pull_by: Deadline
) -> Task:
    """The task as it is before anything was done."""
    record = Record(
        id=task_id,
        spec=spec.without_env_values(),
        status=status,
        node=me.name,
        node_id=me.node_id,
        address=f"{task_id}.mill:{spec.port}",
        times=Times(order.created, placed=placed, pulled=placed if status is Status.STARTING else None),
        template=order.template,
        keyed=order.keyed,
    )
    env = {name: value for name, value in spec.env.items() if value is not None}
    return Task(record, Owned(env=env, pull_deadline=pull_by))


@attrs.define
class Withdrawn:
    """The ids of orders that do not count any more, also of those that are still on their way; the latest of them."""

    _ids: dict[str, None] = attrs.field(factory=dict)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._ids

    def add(self, task_id: str) -> None:
        self._ids[task_id] = None
        if len(self._ids) > WITHDRAWN_KEPT:
            del self._ids[next(iter(self._ids))]
