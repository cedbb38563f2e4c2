"""Shared settings: the last writer stands, all come to hold the same, and nothing that was deleted returns."""

from collections.abc import Callable
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.cluster.settings import KEEP_DELETED_S, Setting, Settings, Snapshot
from tests.cluster.fabric import node_id

A, B, C = map(node_id, (1, 2, 3))
DAY_S = KEEP_DELETED_S


def meet(*nodes: Settings) -> None:
    """Each tells each what it holds, twice over, so that what the first learn last comes round."""
    for _ in range(2):
        for one, other in permutations(nodes, 2):
            one.merge(other.snapshot())


def test_what_was_written_last_stands_on_all_nodes() -> None:
    a, b = Settings(A), Settings(B)
    a.put("template/x", b"old", 100.0)
    late = b.put("template/x", b"new", 200.0)
    meet(a, b)
    assert a.get("template/x") == b.get("template/x") == late
    assert [setting.key for setting in a] == ["template/x"]
    assert a.hash() == b.hash()


def test_at_the_same_time_the_higher_node_stands() -> None:
    a, b = Settings(A), Settings(B)
    a.put("x", b"a", 100.0)
    b.put("x", b"b", 100.0)
    meet(a, b)
    assert a.get("x") == b.get("x") == Setting("x", b"b", 100.0, B)


def test_a_write_replaces_what_a_clock_that_was_ahead_has_written() -> None:
    a, b = Settings(A), Settings(B)
    a.put("x", b"from 2099", 4e9)
    meet(a, b)
    b.put("x", b"now", 100.0)
    meet(a, b)
    assert [setting.value for setting in a] == [b"now"]


def test_a_deletion_is_told_and_forgotten_after_a_day() -> None:
    a, b = Settings(A), Settings(B)
    a.put("x", b"value", 100.0)
    meet(a, b)
    gone = b.put("x", None, 200.0)
    assert a.hear(gone) == [gone]
    assert a.get("x") is None
    assert list(a) == []
    a.collect(200.0 + DAY_S - 1, agreed=True)
    a.collect(200.0 + DAY_S, agreed=False)
    assert a.snapshot().settings == (gone,)
    a.collect(200.0 + DAY_S, agreed=True)
    assert a.snapshot() == Snapshot((), 200.0)


def test_a_deletion_is_remembered_until_all_have_it() -> None:
    a, b, c = Settings(A), Settings(B), Settings(C)
    a.put("deleted", b"value", 100.0)
    meet(a, b, c)
    a.put("deleted", None, 200.0)
    c.put("written meanwhile", b"value", 150.0)
    meet(a, b)
    a.collect(300.0 + DAY_S, agreed=False)
    changes = c.merge(a.snapshot())
    assert [(setting.key, setting.value) for setting in changes] == [("deleted", None)]
    meet(a, b, c)
    assert [setting.key for node in (a, b, c) for setting in node] == ["written meanwhile"] * 3


def test_an_old_disk_brings_nothing_deleted_back_and_learns_of_it() -> None:
    a, b = Settings(A), Settings(B)
    a.put("deleted", b"value", 100.0)
    a.put("kept", b"value", 100.0)
    meet(a, b)
    disk = b.snapshot()
    a.put("deleted", None, 200.0)
    meet(a, b)
    a.collect(200.0 + DAY_S, agreed=a.hash() == b.hash())
    b = Settings(B, disk)
    assert a.merge(b.snapshot()) == []
    assert a.hear(Setting("deleted", b"value", 100.0, A)) == []
    assert b.merge(a.snapshot()) == [Setting("deleted", None, 100.0, A)]
    assert [setting.key for node in (a, b) for setting in node] == ["kept"] * 2
    assert a.hash() == b.hash()


def test_a_newcomer_gets_what_is_older_than_a_day() -> None:
    a, new = Settings(A), Settings(B)
    a.put("x", b"value", 100.0)
    a.put("y", None, 200.0)
    a.collect(200.0 + DAY_S, agreed=True)
    assert [setting.key for setting in new.merge(a.snapshot())] == ["x"]
    assert new.hash() == a.hash()
    assert Settings(B, new.snapshot()).hash() == a.hash()


def test_a_key_that_was_deleted_can_be_written_again() -> None:
    a = Settings(A)
    a.put("x", None, 5000.0)
    a.collect(5000.0 + DAY_S, agreed=True)
    a.put("x", b"again", 100.0)
    b = Settings(B)
    meet(a, b)
    assert b.get("x") == a.get("x")
    assert b.get("x") is not None


def test_what_a_newer_mill_says_beside_it_is_passed_on() -> None:
    a, b = Settings(A), Settings(B)
    a.put("x", b"", 1.0, extra=b"from the future")
    meet(a, b)
    assert [setting.extra for setting in b] == [b"from the future"]
    assert b.get("x") is not None


writes = st.builds(
    Setting,
    st.sampled_from("xyz"),
    st.one_of(st.none(), st.binary(max_size=1)),
    st.sampled_from([1.0, 2.0, 3.0]),
    st.sampled_from([A, B]),
)


@given(st.lists(writes, max_size=15), st.randoms(use_true_random=False))
def test_writes_in_any_order_and_number_come_to_the_same(written: list[Setting], rng: Random) -> None:
    other = written + rng.sample(written, len(written) // 2)
    rng.shuffle(other)
    nodes = [Settings(C), Settings(C)]
    for node, order in zip(nodes, (written, other), strict=True):
        for setting in order:
            node.hear(setting)
    assert nodes[0].snapshot() == nodes[1].snapshot()
    assert nodes[0].merge(nodes[1].snapshot()) == []


@given(st.lists(writes, max_size=8), st.lists(writes, max_size=8), st.lists(writes, max_size=8))
def test_merging_commutes_associates_and_is_idempotent(
    first: list[Setting], second: list[Setting], third: list[Setting]
) -> None:
    def joined(*snapshots: Snapshot) -> Snapshot:
        node = Settings(C)
        for snapshot in snapshots:
            node.merge(snapshot)
        return node.snapshot()

    x, y, z = (joined(*(Snapshot((write,), 0.0) for write in part)) for part in (first, second, third))
    assert joined(x, y) == joined(y, x)
    assert joined(joined(x, y), z) == joined(x, joined(y, z))
    assert joined(x, x) == x


# -- nothing that was deleted returns -------------------------------------------------------------------------------

SEEDS = 150


def wrong(seed: int) -> bool:
    """Nodes write, delete, meet and forget over days, and restart with an old disk; whether it ends in what was written last."""
    rng = Random(seed)
    nodes, now, last = [Settings(node) for node in (A, B, C)], 100.0, dict[str, Setting]()
    agreed = [node.snapshot() for node in nodes]
    for _ in range(60):
        now += rng.choice([60.0, 0.2 * DAY_S, 0.8 * DAY_S])
        key, index = rng.choice("xyz"), rng.randrange(3)
        node = nodes[index]
        match rng.randrange(12):
            case 0 | 1 | 2 | 3 | 4:
                last[key] = node.put(key, rng.choice([b"value", None]), now)
            case 5 | 6 | 7 | 8:
                if len({node.hash() for node in nodes}) == 1:
                    disks = [node.snapshot() for node in nodes]
                    node.collect(now, agreed=True)
                    agreed, older = disks, agreed
                    nodes[(index + 1) % 3] = Settings(nodes[(index + 1) % 3].me, older[(index + 1) % 3])
                else:
                    node.collect(now, agreed=False)
            case 9:
                meet(*nodes)
            case _:
                meet(*rng.sample(nodes, 2))
    meet(*nodes)
    expected = {key: setting for key, setting in last.items() if setting.value is not None}
    return any({setting.key: setting for setting in node} != expected for node in nodes)


def test_over_days_of_partitions_nothing_deleted_returns_and_nothing_written_is_lost() -> None:
    assert [seed for seed in range(SEEDS) if wrong(seed)] == []


def forget_before_all_agree(self: Settings, now: float, *, agreed: bool) -> None:
    TRUE_COLLECT(self, now, agreed=agreed or self is not None)


TRUE_COLLECT = Settings.collect


def hear_whatever_comes(self: Settings, setting: Setting) -> list[Setting]:
    held = self._settings.get(setting.key)
    if held is not None and setting.rank <= held.rank:
        return []
    self._settings[setting.key] = setting
    return [setting]


def forget_without_a_trace(self: Settings, now: float, *, agreed: bool) -> None:
    assert isinstance(agreed, bool)
    self._settings = {
        key: setting
        for key, setting in self._settings.items()
        if setting.value is not None or setting.time > now - DAY_S
    }


@pytest.mark.parametrize(
    ("name", "bug"),
    [
        ("hear", hear_whatever_comes),
        ("collect", forget_without_a_trace),
        ("collect", forget_before_all_agree),
    ],
)
def test_a_planted_bug_is_found(
    name: str, bug: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, name, bug)
    assert any(wrong(seed) for seed in range(SEEDS))
