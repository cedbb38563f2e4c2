"""Tasks that are not known here are asked of the others: in time, all at once, and however many are asked for."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio.testing import MockClock

from mill.api.peer_names import MOST_NAMES, NAMES
from mill.cluster.values import Address, Member, MemberState, NodeId, Peer
from mill.config import ASK_ALL_S
from mill.daemon import questions
from mill.daemon.peers import Unreachable
from mill.daemon.questions import PACE_S, Questions
from mill.dns.names import Known, Name
from tests.daemon import fleets
from tests.daemon.fleets import Members

ME, A, B = (NodeId(letters * 16) for letters in ("aa", "bb", "cc"))
WEB = Name(("10.99.4.2",), 8080)
ASK_S = 0.005


@attrs.frozen
class Said:
    status: int
    body: bytes

    async def read(self) -> bytes:
        return self.body


@attrs.define(eq=False)
class Wire:
    """As `Peers`: what the others know, after `ASK_S`. One that is *mute* never answers, one of *odd* answers that."""

    knows: dict[NodeId, dict[str, Name]]
    mute: set[NodeId] = attrs.field(factory=set)
    odd: dict[NodeId, Said] = attrs.field(factory=dict)
    asked: list[tuple[NodeId, list[str]]] = attrs.field(factory=list)

    @asynccontextmanager
    async def open(
        self, node: NodeId, method: str, path: str, *, headers: Mapping[str, str], content: bytes
    ) -> AsyncIterator[Said]:
        assert (method, path, headers) == ("POST", NAMES, {"content-type": "application/json"})
        wanted = json.loads(content)["names"]
        self.asked.append((node, wanted))
        if node in self.mute:
            await trio.sleep_forever()
        await trio.sleep(ASK_S)
        if node not in self.knows:
            raise Unreachable("nobody is there")
        known = {
            task_id: {"addresses": name.addresses, "port": name.port}
            for task_id, name in self.knows[node].items()
            if task_id in wanted
        }
        yield self.odd.get(node) or Said(200, json.dumps(known).encode())


@pytest.fixture
def members() -> Members:
    return Members(ME, {node: member(node) for node in (ME, A, B)})


def member(node: NodeId) -> Member:
    return Member(Peer(node, 1, node[:2], *Address("192.0.2.1", 4401)), MemberState.ALIVE, 0, 0, 0.0)


@pytest.fixture
def wire() -> Wire:
    return Wire({A: {"web-a1b2": WEB}, B: {}})


@pytest.fixture
async def asking(nursery: trio.Nursery, members: Members, wire: Wire) -> Questions:
    found: Questions = await nursery.start(questions.serve, members, wire)
    return found


async def test_who_has_it_says_so_and_all_were_asked_at_once(
    autojump_clock: MockClock, asking: Questions, wire: Wire
) -> None:
    began = autojump_clock.current_time()
    assert await asking.ask("web-a1b2") == WEB
    assert autojump_clock.current_time() - began < 0.1
    assert sorted(wire.asked) == [(A, ["web-a1b2"]), (B, ["web-a1b2"])]


async def test_what_all_deny_there_is_not_and_they_are_not_asked_again_for_a_second(
    asking: Questions, wire: Wire
) -> None:
    for _ in range(100):
        assert await asking.ask("gone-0000") is None
    assert len(wire.asked) == 2
    wire.knows[B]["gone-0000"] = WEB
    await trio.sleep(1)
    assert await asking.ask("gone-0000") == WEB


@pytest.mark.parametrize("how", ["mute", "away", "nonsense", "no port", "no address", "older"])
async def test_while_somebody_does_not_say_nothing_is_denied_and_what_another_has_is_told_at_once(
    autojump_clock: MockClock, asking: Questions, wire: Wire, how: str
) -> None:
    if how == "mute":
        wire.mute.add(B)
    elif how == "away":
        del wire.knows[B]
    else:
        wire.odd[B] = {
            "nonsense": Said(200, b"[1]"),
            "no port": Said(200, b'{"gone-0000": {"addresses": [], "port": 70000}}'),
            "no address": Said(200, b'{"gone-0000": {"addresses": ["x"], "port": 7}}'),
            "older": Said(404, b"{}"),
        }[how]
    began = autojump_clock.current_time()
    assert await asking.ask("web-a1b2") == WEB
    assert autojump_clock.current_time() - began < 0.1
    began = autojump_clock.current_time()
    assert await asking.ask("gone-0000") is Known.UNSURE
    assert autojump_clock.current_time() - began <= ASK_ALL_S + 0.001


async def test_a_minority_asks_whom_it_can_and_denies_only_what_all_there_are_have_denied(
    asking: Questions, members: Members
) -> None:
    members.partial = True
    assert await asking.ask("gone-0000") is None
    members.set(B, MemberState.DOWN)
    assert await asking.ask("gone-0001") is Known.UNSURE
    assert await asking.ask("web-a1b2") == WEB
    members.set(B, MemberState.LEFT)
    assert await asking.ask("gone-0001") is None
    members.members = {ME: members.members[ME]}
    assert await asking.ask("gone-0002") is Known.UNSURE


async def test_a_majority_denies_what_only_somebody_silent_for_long_or_away_could_know(
    asking: Questions, members: Members, wire: Wire
) -> None:
    members.set(B, MemberState.DOWN)
    assert await asking.ask("gone-0000") is Known.UNSURE
    assert await asking.ask("web-a1b2") == WEB
    await trio.sleep(members.lost_s)
    assert await asking.ask("gone-0000") is None
    members.set(B, MemberState.AWAY)
    assert await asking.ask("gone-0001") is None
    assert {node for node, _ in wire.asked} == {A}
    members.members = {ME: members.members[ME]}
    assert await asking.ask("gone-0002") is None


async def test_a_flood_of_names_is_few_questions_and_each_is_answered_in_time(
    autojump_clock: MockClock, asking: Questions, wire: Wire
) -> None:
    """A thousand names a second for three seconds, of which none exists."""
    took: list[float] = []
    answers: list[object] = []
    flood_began = autojump_clock.current_time()

    async def ask(number: int) -> None:
        began = autojump_clock.current_time()
        answers.append(await asking.ask(f"flood-{number:04}"))
        took.append(autojump_clock.current_time() - began)

    async with trio.open_nursery() as nursery:
        for number in range(3000):
            nursery.start_soon(ask, number)
            await trio.sleep(0.001)
    assert (set(answers), len(answers)) == ({None}, 3000)
    assert max(took) <= ASK_ALL_S + 0.001
    rounds = (autojump_clock.current_time() - flood_began) / (PACE_S * 3) + 1
    assert 50 < len(wire.asked) <= 2 * rounds


async def test_beyond_what_may_be_under_way_nothing_is_claimed(asking: Questions, wire: Wire) -> None:
    wire.mute |= {A, B}
    answers: list[object] = []

    async def ask(number: int) -> None:
        answers.append(await asking.ask(f"flood-{number:04}"))

    async with trio.open_nursery() as nursery:
        for number in range(10 * MOST_NAMES):
            nursery.start_soon(ask, number)
    assert (set(answers), len(answers)) == ({Known.UNSURE}, 10 * MOST_NAMES)
    assert sum(len(names) for _, names in wire.asked) == 2 * MOST_NAMES
    assert await asking.ask("later-0000") is Known.UNSURE


async def test_one_name_asked_a_thousand_times_at_once_is_one_question(
    autojump_clock: MockClock, asking: Questions, wire: Wire
) -> None:
    began = autojump_clock.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(asking.ask, "web-a1b2")
    assert autojump_clock.current_time() - began < 0.1
    assert sum(len(names) for _, names in wire.asked) == 2


# -- over a real connection -----------------------------------------------------------------------------------------


async def test_a_node_answers_for_its_own_tasks_over_mutual_tls(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    async with fleets.two(tmp_path) as two:
        two.there.names.tasks |= {"web-a1b2": WEB, "lone-c3d4": Name((), 1)}
        two.there.names.unsure.add("else-e5f6")
        asking: Questions = await nursery.start(questions.serve, two.members, two.reached)
        assert await asking.ask("web-a1b2") == WEB
        assert await asking.ask("lone-c3d4") == Name((), 1)
        assert await asking.ask("else-e5f6") is None
        two.there.peer.cancel()
        assert await asking.ask("web-a1b2") is Known.UNSURE


@pytest.mark.parametrize("body", [{"a": []}, ["web"], {"names": [1]}, {"names": ["x"] * (MOST_NAMES + 1)}])
async def test_what_is_no_question_is_a_bad_request(tmp_path: Path, body: Any) -> None:
    async with fleets.two(tmp_path) as two:
        asked = two.reached.open(
            two.there.id, "POST", NAMES, headers={"content-type": "application/json"},
            content=json.dumps(body).encode(),
        )  # fmt: skip
        async with asked as answer:
            assert answer.status == httpx.codes.BAD_REQUEST
            assert b"Traceback" not in await answer.read()
