"""What comes of other nodes' tasks is in this node's table from the first packet on, whatever of milld is there by then."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import attrs
import pytest

from mill.cluster.entries import Changed, View
from mill.cluster.records import Records
from mill.cluster.values import NodeId, Peer
from mill.convert import parse_time, to_json
from mill.daemon.news import News
from mill.model import Record, Status, Time, Times
from mill.tasks import rows
from tests.tasks.scene import make_spec

ME, OTHER = NodeId("a" * 32), NodeId("b" * 32)


@attrs.define
class JustMade:
    """An engine that has read nothing yet."""

    me: Peer
    records: Records


def heard(said: Record, wall: Callable[[], float] = lambda: 1000.0) -> tuple[News, list[Changed]]:
    """A node that has just begun, and hears of another's task before anything else."""
    engine: Any = JustMade(Peer(ME, 1, "me", "10.0.0.1", 4401), Records(ME, 1, ()))
    other = Records(OTHER, 1, ())
    entry = other.draft(said.id, 2, json.dumps(to_json(said)).encode())
    changes = [it for it in engine.records.merge([entry]) if isinstance(it, Changed)]
    return News((), wall).of(engine), changes


TIMES = Times(Time(990.0), started=Time(995.0))
SAID = Record(
    "early-x7k2", make_spec(), Status.RUNNING, "n2", str(UUID(OTHER)), "early-x7k2.mill:8080", TIMES
)


def test_what_is_heard_before_the_tasks_are_there_is_written_with_the_log() -> None:
    news, changes = heard(SAID)
    sql, row = [statement for change in changes for statement in news.shown(change)][-1]
    assert (sql, row[0], row[3]) == (rows.PUT_OTHER, "early-x7k2", Status.RUNNING)


@pytest.mark.parametrize(
    ("given", "lost"), [(998.5, 998.5), (0.0, 1000.0)], ids=["its time", "an older Mill's"]
)
def test_a_lost_task_ended_when_the_verdict_was_given_and_else_when_it_was_first_heard_of(
    given: float, lost: float
) -> None:
    wall = iter([1000.0, 1001.0, 1002.0])
    news, changes = heard(SAID, lambda: next(wall))
    records = news.engine.records
    records.condemn(records.verdict(OTHER, 1, given))
    view = records.lookup(SAID.id)
    assert view is not None
    assert [news.tasks.of(SAID, view).times.finished for _ in range(2)] == [lost, lost]
    ((_, row),) = news.shown(Changed(changes[-1].after, view))
    assert parse_time(json.loads(row[-1])["times"]["finished"]) == lost


def test_what_all_have_forgotten_goes_from_its_owners_table_with_the_log() -> None:
    """Else the next start would tell of it anew; another node's goes as what it is."""
    mine, theirs = Records(ME, 1, ()), Records(OTHER, 1, ())
    engine: Any = JustMade(Peer(ME, 1, "me", "10.0.0.1", 4401), mine)
    news = News((), lambda: 1000.0).of(engine)
    for records, sql in ((mine, rows.DROP_MINE), (theirs, rows.DROP_OTHER)):
        view = View(records.put("gone-x7k2", 2, b"{}"))
        assert news.shown(Changed(view, None)) == [(sql, ("gone-x7k2",))]
