"""The engine's values survive the wire, what is unknown survives too, and no bytes whatever raise anything but the declared error."""

import json
import random
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.cluster import codec, letters
from mill.cluster.claims import NOBODY, Claim, Mandate
from mill.cluster.entries import ENDED, Delta, Entry, Line, Mark, Verdict, Want
from mill.cluster.letters import (
    Ask,
    Beat,
    Compare,
    Copy,
    Deltas,
    Hand,
    Inquiry,
    Vouch,
    Wants,
)
from mill.cluster.proto import engine_pb2 as pb
from mill.cluster.settings import Setting, Snapshot
from mill.cluster.tuning import Tuning
from mill.cluster.values import NodeId
from mill.cluster.wire import MOST_BYTES, MOST_NUMBER, BadPacket
from mill.convert import to_json
from mill.model import Reason, Status
from tests.cluster.test_wire import mutate
from tests.tasks.scene import make_record

LATER = b"\xc2\x3e\x05later"
"""Field 1000, a text: what a newer Mill says besides."""

ids = st.binary(min_size=16, max_size=16).map(lambda raw: NodeId(raw.hex()))
numbers = st.integers(0, MOST_NUMBER)
sums = st.integers(0, 2**64 - 1)
marks = st.builds(Mark, numbers, numbers)
extras = st.sampled_from([b"", LATER])
mandates = st.just(NOBODY) | st.builds(Mandate, numbers, ids)
ME = NodeId("0123456789abcdef" * 2)
ages = st.integers(-MOST_NUMBER, MOST_NUMBER)
claims = st.builds(Claim, numbers, ids, ages, st.booleans())
own_claims = st.builds(Claim, numbers, st.just(ME), ages, st.booleans())
beats = st.builds(Beat, sums, sums, mandates, st.none(), st.binary(max_size=20)) | own_claims.flatmap(
    lambda own: st.builds(Beat, sums, sums, mandates | st.just(own.mandate), st.just(own))
)
tasks = st.text("abc-", max_size=codec.MOST_TASK_BYTES)
entries = st.builds(
    Entry,
    st.just(ME),
    marks,
    tasks,
    st.integers(0, 9),
    st.binary(max_size=50),
    marks,
    st.none() | marks,
    extras,
)
verdicts = st.builds(
    Verdict,
    st.just(ME),
    marks,
    numbers,
    ids,
    marks,
    st.frozensets(marks, max_size=3),
    extras,
    st.floats(0, 1e12),
)
settings = st.builds(
    Setting, st.text(max_size=20), st.none() | st.binary(max_size=50), st.floats(0, 1e12), ids, extras
)
lines = st.builds(Line, ids, marks, marks, marks, sums, sums)
wants = st.builds(Want, ids, marks, marks)
deltas = st.builds(
    Delta, st.just(ME), marks, st.lists(entries, max_size=2).map(tuple), st.lists(verdicts, max_size=2).map(tuple),
    marks, st.none() | marks,
)  # fmt: skip
any_letter = st.one_of(
    st.builds(Compare, st.lists(lines, max_size=3).map(tuple), st.booleans()),
    st.builds(Wants, st.lists(wants, max_size=3).map(tuple)),
    st.builds(Deltas, st.lists(deltas, max_size=2).map(tuple)),
    st.builds(
        Copy,
        st.builds(Snapshot, st.lists(settings, max_size=3).map(tuple), st.floats(0, 1e12)),
        st.booleans(),
    ),
    st.builds(Ask, ids),
    st.builds(Vouch, ids, st.booleans()),
    st.builds(Hand, mandates),
    st.builds(Inquiry, ids),
    st.builds(letters.Testimony, ids, st.integers(0, 10**9).map(float), lines),
    st.builds(letters.Hold, entries),
    st.builds(letters.Holds, tasks),
)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"no",
        zlib.compress(bytes(MOST_BYTES + 1)),
        zlib.compress(b"x" * 100)[:-1],
        zlib.compress(b"\xff"),
    ],
    ids=["nothing", "noise", "too much", "cut off", "no entry"],
)
def test_what_cannot_be_unpacked_is_no_letter(packed: bytes) -> None:
    with pytest.raises(BadPacket):
        codec.read_letter(pb.Letter(hold=pb.Hold(end=packed)).SerializeToString())


def test_the_end_of_a_usual_task_fits_into_a_datagram() -> None:
    record = make_record("coop-agent-x7k2", Status.FAILED, reason=Reason.EXIT, exit_code=3)
    said = json.dumps(to_json(record)).encode()
    end = Entry(ME, Mark(1, 9), record.id, ENDED, said, Mark(1, 2), Mark(1, 9))
    assert len(said) > Tuning().rumour_bytes > len(codec.letter(letters.Hold(end)))


@given(any_letter)
def test_a_letter_comes_out_as_it_went_in(letter: Any) -> None:
    assert codec.read_letter(codec.letter(letter)) == letter


@pytest.mark.parametrize(
    ("values", "write", "read"),
    [
        (beats, codec.beat, partial(codec.read_beat, speaker=ME)),
        (claims, codec.claim, codec.read_claim),
        (entries, codec.entry, codec.read_entry),
        (verdicts, codec.verdict, codec.read_verdict),
        (settings, codec.setting, codec.read_setting),
    ],
    ids=["beat", "claim", "entry", "verdict", "setting"],
)
def test_a_beat_and_each_kind_of_news_come_out_as_they_went_in(
    values: st.SearchStrategy[Any], write: Callable[[Any], bytes], read: Callable[[bytes], Any]
) -> None:
    @given(values)
    def check(value: Any) -> None:
        assert read(write(value)) == value

    check()


def test_what_a_newer_mill_says_of_an_entry_is_kept_and_passed_on() -> None:
    entry = Entry(ME, Mark(1, 1), "task", 2, b"{}", Mark(1, 1))
    read = codec.read_entry(codec.entry(entry) + LATER)
    assert read.extra == LATER
    assert LATER in codec.entry(read)


@given(verdicts.filter(lambda verdict: verdict.at > 0))
def test_a_verdicts_time_is_an_unknown_field_to_an_older_mill_which_sums_it_alike(verdict: Verdict) -> None:
    unknown = pb.Verdict(at=verdict.at).SerializeToString() + verdict.extra
    older = attrs.evolve(verdict, at=0.0, extra=unknown)
    assert codec.verdict(verdict).endswith(unknown)
    assert older.checksum == verdict.checksum
    assert attrs.evolve(verdict, at=verdict.at + 1e3).checksum != verdict.checksum


@pytest.mark.parametrize(
    "made",
    [
        pb.Letter(),
        pb.Letter(ask=pb.Ask(leader=b"short")),
        pb.Letter(wants=pb.Wants(wants=[pb.Want(owner=bytes(16), since=pb.Mark(epoch=2**60))])),
        pb.Letter(copy=pb.Copy(collected=float("nan"))),
        pb.Letter(
            deltas=pb.Deltas(
                deltas=[
                    pb.Delta(
                        owner=bytes(16),
                        verdicts=[pb.Verdict(owner=bytes(16), leader=bytes(16), at=float("inf"))],
                    )
                ]
            )
        ),
        pb.Letter(deltas=pb.Deltas(deltas=[pb.Delta(owner=bytes(16), entries=[pb.Entry(owner=b"x" * 16)])])),
        pb.Letter(
            deltas=pb.Deltas(
                deltas=[pb.Delta(owner=bytes(16), entries=[pb.Entry(owner=bytes(16), task="x" * 64)])]
            )
        ),
    ],
    ids=["nothing", "id", "number", "time", "verdict's time", "another's entry", "task"],
)
def test_what_is_out_of_bounds_is_refused(made: pb.Letter) -> None:
    with pytest.raises(BadPacket):
        codec.read_letter(made.SerializeToString())


def test_only_the_declared_error_leaves_the_decoders() -> None:
    choice, refused = random.Random(1), 0
    entry = Entry(ME, Mark(1, 2), "task", 2, b"{}", Mark(1, 1), Mark(1, 2), LATER)
    verdict = Verdict(ME, Mark(1, 2), 3, ME, Mark(1, 3), frozenset({Mark(1, 3)}))
    line = Line(ME, Mark(1, 2), Mark(1, 2), Mark(0, 0), 5, 6)
    delta = Delta(ME, Mark(0, 0), (entry,), (verdict,), Mark(0, 0), Mark(1, 2))
    copy = Copy(Snapshot((Setting("a", b"b", 1.0, ME),), 0.5), reply=True)
    pool = [
        codec.letter(it)
        for it in (Compare((line,), reply=True), Deltas((delta,)), copy, letters.Testimony(ME, 1.5, line))
    ]
    readers: list[Callable[[bytes], object]] = [
        codec.read_letter,
        partial(codec.read_beat, speaker=ME),
        codec.read_entry,
        codec.read_verdict,
        codec.read_setting,
    ]
    for _ in range(10_000):
        mutant = mutate(choice.choice(pool), choice)
        for read in readers:
            try:
                read(mutant)
            except BadPacket:
                refused += 1
    assert 0 < refused < 10_000 * len(readers)
