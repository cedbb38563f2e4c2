"""What the log gets of those who are turned away: one line each, and no flood."""

from collections.abc import Iterator

import pytest
import structlog
from structlog.typing import EventDict
from trio.testing import MockClock

from mill.cluster.values import Address, NodeId
from mill.daemon import news
from mill.daemon.news import News
from mill.daemon.seldom import AGAIN_S, MOST_LINES, Seldom
from mill.security.box import Refusal

THERE = "192.0.2.9"
FROM = Address(THERE, 4401)
X = NodeId("aa" * 16)


class Engine:
    """Of a node that knows nobody."""

    members: dict[NodeId, object] = {}  # noqa: RUF012 -- nobody changes it


@pytest.fixture
def told() -> News:
    made = News([], lambda: 0.0)
    made.engine = Engine()  # type: ignore[assignment]
    return made


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as captured:
        monkeypatch.setattr(news, "log", structlog.get_logger())
        yield captured


async def test_each_kind_of_stranger_is_a_line_and_the_same_again_is_none_for_a_minute(
    told: News, lines: list[EventDict], mock_clock: MockClock
) -> None:
    for _ in range(100):
        told.stranger(THERE, "no certificate")
        told.stranger(THERE, "unsupported protocol")
        told.turned_away(Refusal.REPLAYED, X, FROM)
        told.turned_away(Refusal.SIZE, None, FROM)
    assert [line["why"].partition(":")[0] for line in lines] == [
        "no certificate",
        "unsupported protocol",
        "it has come before, or comes much too late",
        "it is none of Mill's",
    ]
    assert [line.get("in_the_name_of") for line in lines] == [None, None, X[:8], None]
    mock_clock.jump(AGAIN_S)
    told.stranger(THERE, "no certificate")
    assert len(lines) == 5


async def test_what_needs_no_line_gets_none(told: News, lines: list[EventDict]) -> None:
    """One's own: a list of members to join by may name all."""
    told.turned_away(Refusal.OWN, X, FROM)
    assert lines == []


async def test_a_datagram_by_another_secret_is_told_with_where_it_came_from(
    told: News, lines: list[EventDict]
) -> None:
    told.turned_away(Refusal.KEY, X, FROM)
    assert [(line["host"], line["why"]) for line in lines] == [(THERE, "it has another secret")]


async def test_strangers_from_any_number_of_addresses_do_not_fill_the_log(
    told: News, lines: list[EventDict]
) -> None:
    for number in range(10_000):
        told.stranger(f"2001:db8::{number:x}", "no certificate")
    assert len(lines) == MOST_LINES + 1
    assert "left out" in lines[-2]["event"]
    assert told._joins.is_news("own trouble has lines of its own")


async def test_a_flood_costs_little_memory(mock_clock: MockClock) -> None:
    seldom = Seldom()
    for number in range(1000):
        seldom.is_news(str(number))
        mock_clock.jump(AGAIN_S / 10)
    assert len(seldom._told) <= MOST_LINES
