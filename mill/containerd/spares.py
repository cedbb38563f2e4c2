"""Writable layers made ahead: whoever starts one task of a name and an image soon starts another, and its layer is there.

containerd syncs its disk twice for a layer, which is a tenth of a start. A layer's key is its task's id, so that a spare one
is what the next task of that name will be called, and nothing else knows of it: left behind by a crash it is a layer of no
known task, and swept as such. `runtime` owns the one `Spares`.
"""

from collections.abc import Callable
from contextlib import suppress

import attrs
import trio

from mill.containerd import rpcs
from mill.containerd.faults import RpcError
from mill.containerd.proto import snapshots_pb2, types_pb2
from mill.containerd.session import Session

MOST = 8
"""Spare layers at once; each is an empty directory and a row in containerd. The longest unused goes first."""
IDLE_S = 60.0
"""A spare layer that nobody took for so long goes: it keeps its image's layers from going."""
LATER_S = 0.02
"""From a start to the making of the next one's layer: whoever waits for the start is told first."""
_LEAVE_S = 1.0  # for their removal when milld leaves; the next milld sweeps what stays

SPARE_LABEL = "mill.spare"
"""Of a layer that was made ahead, also when a task has it; for whoever looks at containerd."""

Key = tuple[str, str]
"""A task's name, and its image as the spec has it."""


async def prepare(
    session: Session, node_id: str, task_id: str, chain_id: str, **labels: str
) -> list[types_pb2.Mount]:
    """The task's writable layer. Labelled a root of garbage collection until its container refers to it."""
    request = snapshots_pb2.PrepareSnapshotRequest(
        snapshotter=session.features.snapshotter,
        key=task_id,
        parent=chain_id,
        labels={"mill.node": node_id, "containerd.io/gc.root": "mill", **labels},
    )
    return list((await session.call(rpcs.SNAPSHOTS_PREPARE, request)).mounts)


async def remove(session: Session, task_id: str) -> None:
    """The task's layer is gone; nothing has it mounted."""
    request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=session.features.snapshotter, key=task_id)
    await session.call(rpcs.SNAPSHOTS_REMOVE, request)


@attrs.frozen
class _Spare:
    task_id: str
    chain_id: str
    mounts: list[types_pb2.Mount]
    made: float
    connection: object


@attrs.define(eq=False)
class Spares:
    """`new_id` makes the id of a further task of a name; `now` is a clock that never jumps."""

    _session: Session
    _node_id: str
    _new_id: Callable[[str], str]
    _now: Callable[[], float]
    _ready: dict[Key, _Spare] = attrs.field(factory=dict)
    _wanted: dict[Key, str] = attrs.field(factory=dict)
    _news: trio.Event = attrs.field(factory=trio.Event)
    _one_at_a_time: trio.Lock = attrs.field(factory=trio.Lock)

    def __repr__(self) -> str:
        return f"<Spares {sorted(spare.task_id for spare in self._ready.values())}>"

    def id_for(self, name: str, image: str) -> str | None:
        """What the next task of them may be called: then its layer is there."""
        spare = self._ready.get((name, image))
        if spare is None or spare.connection is not self._session.connection:
            return None  # one that a containerd made which has gone since is not trusted
        return spare.task_id

    def take(self, name: str, image: str, task_id: str, chain_id: str) -> list[types_pb2.Mount] | None:
        """The task's layer, if it was made ahead on that image."""
        spare = self._ready.get((name, image))
        if spare is None or spare.task_id != task_id:
            return None
        del self._ready[name, image]
        return spare.mounts if spare.chain_id == chain_id else None

    def want(self, name: str, image: str, chain_id: str) -> None:
        """Have one ready soon; a snapshotter that copies whole images makes none ahead."""
        if self.id_for(name, image) is None and self._session.features.overlayfs:
            self._wanted[name, image] = chain_id
            self._news.set()

    async def drop(self) -> None:
        """None is left: they would keep their images' layers from going."""
        self._wanted.clear()
        async with self._one_at_a_time:
            while self._ready:
                await self._remove(next(iter(self._ready)))

    async def keep(self) -> None:
        """Make those that are wanted and remove those that nobody took, for ever; none is left at the end."""
        try:
            while True:
                with trio.move_on_after(self._next_s()):
                    await self._news.wait()
                    await trio.sleep(LATER_S)
                self._news = trio.Event()
                while self._wanted:
                    await self._make(*self._wanted.popitem())
                await self._thin_out()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _LEAVE_S):
                await self.drop()

    def _next_s(self) -> float:
        return min(
            (spare.made + IDLE_S - self._now() for spare in self._ready.values()), default=float("inf")
        )

    async def _make(self, key: Key, chain_id: str) -> None:
        async with self._one_at_a_time:
            if self.id_for(*key) is not None:
                return
            await self._remove(key)
            task_id, connection = self._new_id(key[0]), self._session.connection
            try:
                mounts = await prepare(
                    self._session, self._node_id, task_id, chain_id, **{SPARE_LABEL: "yes"}
                )
            except (
                RpcError
            ):  # its image is gone, containerd is away, the disk is full: whoever starts one is told
                return
            self._ready[key] = _Spare(task_id, chain_id, mounts, self._now(), connection)

    async def _thin_out(self) -> None:
        async with self._one_at_a_time:
            for key, spare in list(self._ready.items()):
                if len(self._ready) > MOST or self._now() - spare.made >= IDLE_S:
                    await self._remove(key)

    async def _remove(self, key: Key) -> None:
        spare = self._ready.pop(key, None)
        if spare is not None:
            with suppress(RpcError):  # the next milld sweeps it
                await remove(self._session, spare.task_id)
