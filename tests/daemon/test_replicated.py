"""Own tasks on their way from the lifecycle to the disk, and from there to all others; and what becomes of those that all others have forgotten."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import attrs
import pytest

from mill.cluster.entries import Changed, Delta, Entry, Opened
from mill.cluster.records import Overtaken, Records
from mill.cluster.values import Member, MemberState, NodeId, Peer
from mill.daemon.layers import running
from mill.daemon.news import News
from mill.daemon.replicated import Replicated
from mill.daemon.shown import Shown
from mill.daemon.witnesses import Witnesses
from mill.errors import NoSpace
from mill.model import Reason, Record, Status, Task
from mill.store import Store, serve
from tests.cluster.fabric import node_id
from tests.tasks.scene import make_record

ME, B, C = map(node_id, (1, 2, 3))
WEB = "web-0001"


@attrs.define(eq=False)
class Engine:
    """As much of one as is used, of a node of three."""

    records: Records
    members: dict[NodeId, Member]
    partial: bool = False

    @property
    def me(self) -> Peer:
        return self.members[ME].peer

    def is_quorum(self, nodes: Any) -> bool:
        return len(nodes) > 1


@attrs.define(eq=False)
class Gossip:
    """`told` is what others hear; as often as `overtaken` says, the log has moved on meanwhile."""

    engine: Engine
    news: News
    told: list[Entry] = attrs.field(factory=list)
    overtaken: int = 0

    def draft(self, task: str, phase: int, payload: bytes) -> Entry:
        return self.engine.records.draft(task, phase, payload)

    def publish(self, entry: Entry, *, told: bool = True) -> None:
        if self.overtaken:
            self.overtaken -= 1
            raise Overtaken("the log is somewhere else")
        self.engine.records.publish(entry)
        if told:
            self.told.append(entry)

    def forget_everything(self) -> None:
        """Others have, as a retention ended while this node was away."""
        head = self.engine.records.line(ME).head
        effects, _ = self.engine.records.absorb(Delta(ME, head, (), (), head, head))
        for effect in effects:
            assert isinstance(effect, Changed | Opened)
            if isinstance(effect, Changed):
                self.news.tell(effect)


@attrs.define(eq=False)
class Cluster:
    gossip: Gossip
    news: News
    me: NodeId = ME

    @property
    def engine(self) -> Engine:
        return self.gossip.engine

    def wall(self) -> float:
        return 0.0


@attrs.define(eq=False)
class Node:
    store: Store
    gossip: Gossip
    witnesses: Witnesses
    held: Replicated

    async def rows(self) -> set[str]:
        found: set[str] = await self.store.ids()
        return found


@asynccontextmanager
async def node(path: Path) -> AsyncIterator[Node]:
    async with running(serve, path / "mill.db") as store:
        members = {
            each: Member(Peer(each, 1, "n", "127.0.0.1", 4401), MemberState.ALIVE, 0, 0, 0.0, {})
            for each in (ME, B, C)
        }
        engine, news = Engine(Records(ME, 1), members), News((), lambda: 0.0)
        news.engine, news.tasks = cast("Any", engine), Shown(engine.records, ME, lambda: 0.0)
        gossip = Gossip(engine, news)
        witnesses = Witnesses(cast("Any", gossip), news, cast("Any", None))
        yield Node(store, gossip, witnesses, Replicated(store, cast("Any", Cluster(gossip, news)), witnesses))


def web(status: Status = Status.RUNNING, **fields: Any) -> Task:
    record: Record = make_record(WEB, status, **fields)
    return Task(record)


ENDED = web(Status.STOPPED, reason=Reason.EXIT, exit_code=0)


async def test_a_change_is_told_once_it_is_committed(tmp_path: Path) -> None:
    async with node(tmp_path) as it:
        await it.held.insert(web(Status.STARTING))
        await it.held.put(web())
        assert [entry.task for entry in it.gossip.told] == [WEB, WEB]
        assert await it.rows() == {WEB}
        assert not it.witnesses.ends.in_doubt([WEB])


async def test_an_end_is_in_doubt_before_anybody_can_read_it_and_given_to_others_once_it_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path) as it:
        await it.held.insert(web())
        put = it.store.put

        async def seen(*args: Any, **options: Any) -> None:
            assert it.witnesses.ends.in_doubt([WEB]) == {WEB}
            assert it.witnesses.ends.owed(0.0) == {}
            await put(*args, **options)

        monkeypatch.setattr(it.store, "put", seen)
        await it.held.put(ENDED)
        assert it.witnesses.ends.in_doubt([WEB]) == {WEB}
        assert it.witnesses.ends.owed(0.0) == {B: it.gossip.told[-1:]}


async def test_an_end_that_could_not_be_committed_is_in_no_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path) as it:
        await it.held.insert(web())

        async def full(*_: Any, **__: Any) -> None:
            raise NoSpace("the disk is full")

        monkeypatch.setattr(it.store, "put", full)
        with pytest.raises(NoSpace):
            await it.held.put(ENDED)
        assert not it.witnesses.ends.in_doubt([WEB])
        assert len(it.gossip.told) == 1


async def test_an_end_that_was_overtaken_is_given_to_others_as_it_was_told_in_the_end(tmp_path: Path) -> None:
    async with node(tmp_path) as it:
        await it.held.insert(web())
        it.gossip.overtaken = 1
        await it.held.put(ENDED)
        first, last = it.gossip.told
        assert (last.task, last.terminal, last.mark > first.mark) == (WEB, True, True)
        assert it.witnesses.ends.owed(0.0) == {B: [last]}


async def test_a_task_that_all_others_have_forgotten_goes_as_it_ends(tmp_path: Path) -> None:
    async with node(tmp_path) as it:
        await it.held.insert(web())
        it.gossip.forget_everything()
        assert await it.rows() == {WEB}, "it runs here still"
        await it.held.put(ENDED)
        assert await it.rows() == set()
        assert len(it.gossip.told) == 1
        assert it.gossip.engine.records.lookup(WEB) is None
