"""The shell around the engine: joining, keeping before telling, going and coming back, and those who are not let in."""
# ruff: noqa: ARG001 -- a test runs by the clock that is among its arguments

import pytest
import trio
from trio.testing import MockClock

from mill.cluster.claims import Persist
from mill.cluster.outcomes import Kill
from mill.cluster.values import MemberState
from mill.security.box import Refusal
from tests.cluster.shells import FOREIGN, Net, until

ALIVE, DOWN, AWAY, LEFT = MemberState.ALIVE, MemberState.DOWN, MemberState.AWAY, MemberState.LEFT


@pytest.fixture
def net(nursery: trio.Nursery) -> Net:
    return Net(nursery)


async def test_by_any_member_all_become_one_cluster_under_the_founder(
    net: Net, autojump_clock: MockClock
) -> None:
    a = await net.add("n1").start()
    b = await net.add("n2").start(a)
    c = await net.add("n3").start(b)
    await net.settle()
    assert {shell.engine.led.leader for shell in (a, b, c) if shell.engine.led} == {a.id}
    assert all(set(shell.states()) == {"n1", "n2", "n3"} for shell in (a, b, c))


async def test_records_and_settings_come_to_all_and_outlive_every_process(
    net: Net, autojump_clock: MockClock
) -> None:
    shells = await net.cluster(3)
    shells[1].put("web-x1")
    shells[2].gossip.do(lambda now: shells[2].engine.set("template/web", b"{}", net.wall(), now))
    await until(lambda: all(shell.engine.records.lookup("web-x1") for shell in shells), 5)
    await net.settle()
    for shell in shells:
        shell.crash()
    alone = await shells[0].start()
    assert alone.engine.records.lookup("web-x1") is not None
    assert [setting.key for setting in alone.engine.settings] == ["template/web"]
    assert set(alone.states()) == {"n1", "n2", "n3"}
    assert alone.engine.me.epoch == 2


async def test_what_is_to_be_kept_is_on_disk_before_anybody_hears_of_it(
    net: Net, autojump_clock: MockClock
) -> None:
    a = await net.add("n1").start()
    await until(lambda: any(isinstance(it, Persist) for it in a.ear.outcomes), 10)
    assert a.disk.fact("mandate") == f'[1, "{a.id}"]'
    assert a.disk.fact("epoch") == "1"


async def test_a_full_disk_does_not_make_a_node_mute_and_what_it_owes_is_kept_later(
    net: Net, autojump_clock: MockClock
) -> None:
    a, b, _ = await net.cluster(3)
    b.disk.full = True
    a.put("web-x1")
    await until(lambda: b.engine.records.lookup("web-x1"), 5)
    await trio.sleep(30)
    assert a.states()["n2"] is ALIVE
    b.disk.full = False
    await trio.sleep(3)
    b.crash()
    await b.start(a)
    assert b.engine.records.lookup("web-x1") is not None


async def test_who_says_that_it_is_away_is_condemned_by_nobody_and_comes_back(
    net: Net, autojump_clock: MockClock
) -> None:
    a, b, c = await net.cluster(3)
    c.put("web-x1")
    await until(lambda: a.engine.records.lookup("web-x1"), 5)
    c.gossip.say_away(600)
    began = trio.current_time()
    await c.gossip.linger()
    assert trio.current_time() - began == pytest.approx(1.0, abs=0.1)
    c.crash()
    assert (a.states()["n3"], b.states()["n3"]) == (AWAY, AWAY)
    await trio.sleep(300)
    view = a.engine.records.lookup("web-x1")
    assert view is not None
    assert not view.lost
    await c.start(a)
    await net.settle()
    assert c.engine.me.epoch == 2


async def test_who_crashed_is_condemned_and_told_to_kill_when_it_is_back(
    net: Net, autojump_clock: MockClock
) -> None:
    a, b, c = await net.cluster(3)
    c.put("web-x1")
    await until(lambda: all(it.engine.records.lookup("web-x1") for it in (a, b)), 5)
    c.crash()

    def lost() -> bool:
        views = [shell.engine.records.lookup("web-x1") for shell in (a, b)]
        return all(view is not None and view.lost for view in views)

    took_s = await until(lost, 25)
    print(f"node_lost after {took_s:.1f} s")
    await c.start(a)
    await until(lambda: Kill("web-x1") in c.ear.outcomes, 10)


async def test_a_verdict_has_its_leaders_time_on_every_node_also_after_a_restart_and_another_order(
    net: Net, autojump_clock: MockClock
) -> None:
    a, b, c = await net.cluster(3)
    a.ahead_s, b.ahead_s = 100.0, -100.0
    c.put("web-x1")
    await until(lambda: all(it.engine.records.lookup("web-x1") for it in (a, b)), 5)
    c.crash()

    def given() -> set[float]:
        return {verdict.at for it in (a, b) for verdict in it.engine.records.verdicts_on(c.id)}

    await until(lambda: all(it.engine.records.verdicts_on(c.id) for it in (a, b)), 25)
    assert len(at := given()) == 1
    assert 0 <= a.wall() - min(at) < 3
    b.crash()
    await b.start(a)
    await net.settle()
    await until(lambda: b.states().get("n3") is DOWN, 15)
    b.gossip.do(lambda now: b.engine.forget(c.id, b.wall(), now))
    await net.settle()
    assert given() == at


async def test_a_node_that_left_is_gone_and_one_that_was_forgotten_has_lost_its_tasks(
    net: Net, autojump_clock: MockClock
) -> None:
    a, b, c = await net.cluster(3)
    b.put("web-x1")
    c.gossip.leave()
    await c.gossip.linger()
    c.crash()
    assert a.states()["n3"] is LEFT
    b.crash()
    await until(lambda: a.states()["n2"] is DOWN, 15)
    a.gossip.do(lambda now: a.engine.forget(b.id, 0.0, now))
    view = a.engine.records.lookup("web-x1")
    assert view is not None
    assert view.lost


# -- those who are not let in ---------------------------------------------------------------------------------------


async def test_another_secret_is_told_on_both_sides_and_neither_becomes_a_member(
    net: Net, autojump_clock: MockClock
) -> None:
    a = await net.add("n1").start()
    stranger = await net.add("n2", FOREIGN).start(a)
    await trio.sleep(5)
    assert set(a.states()) == {"n1"}
    assert set(stranger.states()) == {"n2"}
    assert any("another secret" in why for why, _ in stranger.ear.refusals)
    assert stranger.gossip.refusals[Refusal.FORGED] == 0


async def test_a_leave_that_is_replayed_or_sealed_by_another_secret_moves_nobody(
    net: Net, autojump_clock: MockClock
) -> None:
    a, b, c = await net.cluster(3)
    net.tapped.clear()
    c.gossip.leave()
    await c.gossip.linger()
    c.crash()
    said = [(source, to, data) for source, to, data in net.tapped if source == c.address]
    assert said
    a.crash()  # and with it the window of what it has opened
    await a.start(b)
    await c.start(b)
    await net.settle()
    for _ in range(2):
        for source, to, data in said:
            net.send(source, to, data)
        await trio.sleep(1)
    forged = net.add("n4", FOREIGN)
    forged.id = c.id
    await forged.start(a, b)
    forged.gossip.leave()
    await trio.sleep(2)
    assert (a.states()["n3"], b.states()["n3"]) == (ALIVE, ALIVE)
    assert b.gossip.refusals[Refusal.REPLAYED] > 0


async def test_noise_is_dropped(net: Net, autojump_clock: MockClock) -> None:
    a, b = await net.cluster(2)
    for data in (b"", b"x", b"\x01" + bytes(2000), bytes(70_000)):
        net.send(b.address, a.address, data)
    await trio.sleep(1)
    assert a.states()["n2"] is ALIVE
    assert a.gossip.refusals[Refusal.SIZE] >= 2
