"""Many clients of a fleet at once: they spawn, read and list at a steady pace through whichever nodes are up, and keep what each was told.

Every request is a thread's on the host of its node with a connection of its own, and a request is begun when it is due, however long
others take: `late_s` tells whether that was so, since a crowd that cannot keep pace measures itself.
"""

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import attrs
import httpx

from tests.node import TERMINAL
from tests.scenarios.fleet import Placed
from tests.scenarios.weather import LOST
from tests.world import _enter

CLIENTS = 48
"""On each host: at a pace of a few requests a second, enough for all of them to wait for ten seconds."""
PATIENCE_S = 90.0
LASTING = "sleep 100000"
OK, CREATED, NOT_FOUND = 200, 201, 404
SPAWN, READ, LIST = "spawn", "get", "ps"

End = tuple[str, str | None, int | None]
"""Of a task: its status, reason and exit code; of one that was lost without, for its node may tell that later."""


@attrs.frozen
class Reading:
    """What one answer said of one task; *end* None: that it lives."""

    task: str
    end: End | None


@attrs.frozen
class Told:
    """One request and its answer; *status* 0: there was none. *why* is what a refusal said."""

    what: str
    through: str
    begun: float
    ended: float
    status: int
    partial: bool = False
    task: str = ""
    node: str = ""
    why: str = ""
    readings: tuple[Reading, ...] = ()

    @property
    def took_s(self) -> float:
        return self.ended - self.begun

    @property
    def failed(self) -> bool:
        return self.status not in {OK, CREATED}


@attrs.define(eq=False)
class Crowd:
    """See the module. *lives* says how many seconds the next task shall live; None: for good. `late_s` is the latest begin of a request."""

    placed: Sequence[Placed]
    lives: Callable[[], float | None] = lambda: None
    name: str = "crowd"
    told: list[Told] = attrs.field(factory=list)
    ids: list[str] = attrs.field(factory=list)
    late_s: float = 0.0
    _up: list[Placed] = attrs.field(factory=list)
    _kinds: set[str] = attrs.field(factory=set)
    _under_way: dict[str, set["Future[None]"]] = attrs.field(factory=dict)
    _pools: dict[str, ThreadPoolExecutor] = attrs.field(factory=dict)
    _idle: dict[str, list[httpx.Client]] = attrs.field(factory=dict)
    _asking: dict[str, threading.Thread] = attrs.field(factory=dict)
    _numbers: Iterator[int] = attrs.field(factory=itertools.count)
    _keys: str = attrs.field(factory=lambda: uuid4().hex)
    """What this crowd's keys begin with, and no other's on the same nodes: an object's `id` is given again once it is gone."""

    # -- who is asked -----------------------------------------------------------------------------------------------

    def enter(self, one: Placed) -> None:
        """From now on *one* is asked, too."""
        self._up.append(one)

    def leave(self, one: Placed) -> None:
        """*one* is not asked any more; returns once it has answered what it was asked before."""
        self._up.remove(one)
        for asked in list(self._under_way[one.name]):
            asked.result()
        self._hang_up(one)

    @contextmanager
    def at_work(self, **each_s: float) -> Iterator["Crowd"]:
        """Asking: *each_s* are the requests a second of each kind, ``spawn``, ``get`` and ``ps``."""
        for one in self.placed:
            self._under_way[one.name], self._idle[one.name] = set(), []
            self._pools[one.name] = ThreadPoolExecutor(CLIENTS, initializer=_enter, initargs=(one.host.name,))
            self.enter(one)
        self._kinds = set(each_s)
        self._asking = {
            kind: threading.Thread(target=self._ask_on, args=(kind, rate)) for kind, rate in each_s.items()
        }
        for thread in self._asking.values():
            thread.start()
        try:
            yield self
        finally:
            self._kinds.clear()
            for thread in self._asking.values():
                thread.join()
            for one in self.placed:
                self._pools[one.name].shutdown()
                self._hang_up(one)

    def _ask_on(self, what: str, each_s: float) -> None:
        due, turn = time.monotonic(), 0
        while what in self._kinds:
            time.sleep(max(0.0, due - time.monotonic()))
            due += 1 / each_s
            if up := list(self._up):
                turn += 1
                self.ask(what, up[turn % len(up)])

    def stop(self, what: str) -> None:
        """Nothing of that kind is asked any more; returns once all that was asked is answered."""
        self._kinds.discard(what)
        self._asking[what].join()
        for one in self.placed:
            for asked in list(self._under_way[one.name]):
                asked.result()

    def ask(self, what: str, one: Placed) -> "Future[None]":
        """Begin one request through *one*."""
        under_way = self._under_way[one.name]
        made = self._pools[one.name].submit(self._asked, what, one, time.monotonic())
        under_way.add(made)
        made.add_done_callback(under_way.discard)
        return made

    # -- one request ------------------------------------------------------------------------------------------------

    def _asked(self, what: str, one: Placed, due: float) -> None:
        begun = time.monotonic()
        self.late_s = max(self.late_s, begun - due)
        told = Told(what, one.name, begun, begun, 0)
        try:
            answer = self._request(what, one)
            if answer is None:
                return
            told = _read(attrs.evolve(told, status=answer.status_code), answer)
        except (httpx.HTTPError, ValueError, LookupError) as error:
            told = attrs.evolve(told, why=repr(error))
        told = attrs.evolve(told, ended=time.monotonic())
        if told.status == CREATED:
            self.ids.append(told.task)
        self.told.append(told)

    def _request(self, what: str, one: Placed) -> httpx.Response | None:
        if what == LIST:
            return self._send(one, "GET", "/v1/tasks", params={"all": "true", "limit": "1000"})
        if what == READ:
            return self._send(one, "GET", f"/v1/tasks/{random.choice(self.ids)}") if self.ids else None
        seconds = self.lives()
        body = {
            "image": "busybox", "memory": "16M", "cpu": 0.02, "network": "none", "grace": 0.2, "name": self.name,
            "args": ["sh", "-c", LASTING if seconds is None else f"sleep {seconds:g}; exit 3"],
        }  # fmt: skip
        return self._send(
            one,
            "POST",
            "/v1/tasks/spawn",
            json=body,
            headers={"Idempotency-Key": f"{self._keys}-{next(self._numbers)}"},
        )

    def _send(self, one: Placed, method: str, path: str, **request: Any) -> httpx.Response:
        """By a connection that nobody else uses meanwhile."""
        try:
            client = self._idle[one.name].pop()
        except IndexError:
            limits = httpx.Limits(max_keepalive_connections=1, keepalive_expiry=20)
            client = httpx.Client(verify=False, trust_env=False, timeout=PATIENCE_S, limits=limits)
            client.headers["Authorization"] = f"Bearer {one.node.token}"
        try:
            return client.request(method, one.node.address + path, **request)
        finally:
            self._idle[one.name].append(client)

    def _hang_up(self, one: Placed) -> None:
        while self._idle[one.name]:
            self._idle[one.name].pop().close()

    # -- what came of it --------------------------------------------------------------------------------------------

    def failures(self) -> list[Told]:
        return [one for one in self.told if one.failed]

    def summary(self, since: float = 0.0, until: float = float("inf")) -> str:
        """How many of each kind, how many failed, and how long they took."""
        lines = []
        for what in (SPAWN, READ, LIST):
            those = [one for one in self.told if one.what == what and since <= one.begun < until]
            if those:
                took = sorted(one.took_s for one in those)
                why = Counter(one.status for one in those if one.failed)
                lines.append(
                    f"{what}: {len(those)}, failed {sum(why.values())} {dict(why) or ''}, partial {sum(one.partial for one in those)}, "
                    f"median {took[len(took) // 2] * 1000:.0f} ms, 95 % {took[len(took) * 95 // 100] * 1000:.0f} ms, "
                    f"slowest {took[-1]:.2f} s, over 2 s {sum(seconds > 2 for seconds in took)}"
                )
        return "; ".join(lines) + f"; begun late by {self.late_s * 1000:.0f} ms at most"


def _read(told: Told, answer: httpx.Response) -> Told:
    said = answer.json()
    if told.failed:
        return attrs.evolve(told, why=f"{said['title']}: {said['detail']}")
    if told.what == SPAWN:
        return attrs.evolve(told, task=said["id"], node=said["node"])
    rows = said["tasks"] if told.what == LIST else [said]
    readings = tuple(Reading(row["id"], _end(row)) for row in rows)
    return attrs.evolve(told, readings=readings, partial=said.get("partial", False))


def _end(row: dict[str, Any]) -> End | None:
    if row["status"] not in TERMINAL:
        return None
    lost = row["reason"] == LOST
    return row["status"], row["reason"], None if lost else row["exit_code"]


def taken_back(told: Sequence[Told]) -> list[str]:
    """Ends that an answer told for certain, and a later one otherwise; later is what was asked after the first had come.

    A listing is of what has come to its node, and may be behind with an end, but never tell another.
    """
    certain = sorted((one for one in told if not one.partial), key=lambda one: one.ended)
    first: dict[str, tuple[Told, End]] = {}
    found: list[str] = []
    for one in certain:
        for reading in one.readings:
            if reading.end is not None:
                first.setdefault(reading.task, (one, reading.end))
    for one in certain:
        for reading in one.readings:
            before = first.get(reading.task)
            if before is None or one.begun <= before[0].ended or reading.end == before[1]:
                continue
            if reading.end is not None or one.what == READ:
                found.append(
                    f"{reading.task}: {before[1]} by {before[0].what} of {before[0].through}, "
                    f"and {one.begun - before[0].ended:.1f} s later {reading.end} by {one.what} of {one.through}"
                )
    return found
