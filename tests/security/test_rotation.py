"""A change of the secret: begun anywhere, cut off anywhere, gone on with anywhere; and at every moment all nodes understand each other."""

from collections.abc import Iterator

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mill.errors import Conflict
from mill.security.keys import Keyring, Secret
from mill.security.rotation import RingView, Step, Work, begun, due

A, B, C = sorted((Secret(bytes([number]) * 32) for number in range(3)), key=lambda it: it.key_id)
HEX = {secret: secret.key_id.hex() for secret in (A, B, C)}


def views(*rings: Keyring) -> dict[str, RingView]:
    return {f"n{number}": RingView.of(ring) for number, ring in enumerate(rings, 1)}


OLD = Keyring(A)
BOTH = OLD.install(B)
NEW = BOTH.use(B.key_id)
DONE = NEW.remove(A.key_id)


@pytest.mark.parametrize(
    ("rings", "nodes", "step", "secret"),
    [
        ((BOTH, OLD, OLD), ["n2", "n3"], Step.INSTALL, B),
        ((OLD, OLD, BOTH), ["n1", "n2"], Step.INSTALL, B),
        ((BOTH, BOTH), ["n1", "n2"], Step.USE, B),
        ((NEW, BOTH), ["n2"], Step.USE, B),
        ((NEW, NEW), ["n1", "n2"], Step.REMOVE, A),
        ((DONE, NEW), ["n2"], Step.REMOVE, A),
    ],
)
def test_a_change_goes_on_where_it_stands(
    rings: tuple[Keyring, ...], nodes: list[str], step: Step, secret: Secret
) -> None:
    found = views(*rings)
    assert begun(found) == HEX[B]
    assert due(found, HEX[B]) == [Work(node, step, HEX[secret]) for node in nodes]


def test_one_secret_everywhere_is_no_change() -> None:
    assert begun(views(OLD, OLD)) is None
    assert begun(views(DONE, DONE)) is None
    assert due(views(DONE, DONE), HEX[B]) == []


def test_a_ring_that_has_half_ended_a_change_is_not_led_back() -> None:
    """What remains of the former secret looks as one that is to come, but that the ring remembers."""
    half_begun, half_ended = views(BOTH, OLD), views(NEW, DONE)
    assert begun(half_begun) == begun(half_ended) == HEX[B]


def test_two_changes_that_began_at_once_become_one() -> None:
    rings = views(OLD.install(B), OLD.install(C), OLD)
    assert begun(rings) == HEX[B]
    assert due(rings, HEX[B]) == [Work("n2", Step.REMOVE, HEX[C])]


def test_a_change_that_is_at_its_end_leaves_the_next_one_alone() -> None:
    rings = views(DONE, DONE.install(C))
    assert due(rings, HEX[B]) == []
    assert begun(rings) == HEX[C]


def test_secrets_that_no_change_leads_to_are_told() -> None:
    with pytest.raises(Conflict, match=r"copy cluster\.secret"):
        begun(views(Keyring(A, (), (B.key_id,)), Keyring(B, (), (A.key_id,))))


# -- any order of anything ------------------------------------------------------------------------------------------


@attrs.define
class Change:
    """Whoever asks for a change: one reading, or one step, for each `next`; a refusal ends it."""

    rings: dict[str, Keyring]
    made: dict[str, Secret]
    own: Secret
    order: list[str] = attrs.field(factory=lambda: ["n1", "n2", "n3"])

    def run(self) -> Iterator[None]:
        target = None
        while True:
            seen = {}
            for node in self.order:
                seen[node] = RingView.of(self.rings[node])
                yield
            if target is None:
                target = begun(seen) or self.own.key_id.hex()
            work = due(seen, target)
            if not work:
                return
            for one in sorted(work, key=lambda it: self.order.index(it.node)):
                try:
                    self._do(one)
                except Conflict:
                    return
                yield

    def _do(self, work: Work) -> None:
        ring = self.rings[work.node]
        key_id = bytes.fromhex(work.key_id)
        match work.step:
            case Step.INSTALL:
                self.rings[work.node] = ring.install(self.made[work.key_id])
            case Step.USE:
                self.rings[work.node] = ring.use(key_id)
            case Step.REMOVE:
                self.rings[work.node] = ring.remove(key_id)


def test_however_changes_meet_or_end_early_all_understand_each_other() -> None:
    ends = []

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        rings = dict.fromkeys(("n1", "n2", "n3"), Keyring(A))
        fresh = [Secret(bytes([number]) * 32) for number in range(10, 16)]
        made = {secret.key_id.hex(): secret for secret in fresh}
        running: list[Iterator[None]] = []
        for _ in range(data.draw(st.integers(0, 120))):
            what = data.draw(st.sampled_from(["begin", "cut", *["go on"] * 10]))
            if what == "begin" and fresh and len(running) < 3:
                order = data.draw(st.permutations(sorted(rings)))
                running.append(Change(rings, made, fresh.pop(), order).run())
            elif running:
                at = data.draw(st.integers(0, len(running) - 1))
                if what == "cut" or next(running[at], running) is running:
                    del running[at]
            for ring in rings.values():
                assert all(ring.used in other for other in rings.values()), rings
        if begun(views(*rings.values())):
            list(Change(rings, made, Secret(b"z" * 32)).run())
        assert len({ring.used for ring in rings.values()}) == 1
        assert all(list(ring) == [ring.used] for ring in rings.values()), rings
        ends.append(rings["n1"].used != A)

    holds()
    assert any(ends)
