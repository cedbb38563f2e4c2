"""The time index: what is written is read, and whatever a crash leaves is mended so that it speaks of each byte once."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mill.logs.index import (
    ENTRY_BYTES,
    Entry,
    Span,
    Stamps,
    bases_of,
    decode,
    encode,
    first_after,
    first_since,
    mend,
    segment_name,
    spans,
)

BASE = 5_000
steps = st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), max_size=30)


def entries_of(grown: list[tuple[int, int]], base: int = BASE) -> list[Entry]:
    time_ns, end, entries = 10**18, base, []
    for later, more in grown:
        time_ns, end = time_ns + later, end + more
        entries.append(Entry(time_ns, end))
    return entries


def raw_of(entries: list[Entry]) -> bytes:
    return b"".join(map(encode, entries))


@given(steps)
def test_what_is_encoded_is_decoded(grown: list[tuple[int, int]]) -> None:
    entries = entries_of(grown)
    assert decode(raw_of(entries)) == entries


@given(steps, st.integers(0, ENTRY_BYTES - 1), st.integers(0, 10**7), st.integers(0, 2 * 10**18))
def test_a_torn_index_is_mended_to_speak_of_every_byte_once(
    grown: list[tuple[int, int]], torn: int, unindexed: int, mtime_ns: int
) -> None:
    """Any number of whole entries, a part of one more, and bytes written after the last."""
    entries = entries_of(grown)
    end = (entries[-1].end if entries else BASE) + unindexed
    raw = raw_of(entries) + encode(Entry(2**63, 2**63))[:torn]
    mended = mend(raw, BASE, end, mtime_ns)
    whole = decode(raw[: mended.keep_bytes]) + ([mended.missing] if mended.missing else [])
    assert whole[: len(entries)] == entries
    assert (whole[-1].end if whole else BASE) == end
    assert mended.last_ns == (whole[-1].time_ns if whole else 0)
    assert all(a.time_ns < b.time_ns and a.end < b.end for a, b in pairwise(whole))
    again = mend(raw_of(whole), BASE, end, mtime_ns)
    assert again.missing is None
    assert again.keep_bytes == len(whole) * ENTRY_BYTES


@given(st.integers(1, 100), st.integers(0, 200), st.integers(0, 200))
def test_times_grow_from_one_segment_to_the_next(unindexed: int, before_ns: int, mtime_ns: int) -> None:
    mended = mend(b"", BASE, BASE + unindexed, mtime_ns, before_ns)
    assert mended.missing is not None
    assert mended.missing.time_ns == mended.last_ns == max(mtime_ns, before_ns + 1)
    assert mend(b"", BASE, BASE, mtime_ns, before_ns).last_ns == before_ns


@given(steps.filter(bool), st.data())
def test_entries_beyond_the_bytes_are_cut(grown: list[tuple[int, int]], data: st.DataObject) -> None:
    """After a power cut the segment may be shorter than its index."""
    entries = entries_of(grown)
    end = data.draw(st.integers(BASE, entries[-1].end))
    mended = mend(raw_of(entries), BASE, end, mtime_ns=0)
    kept = decode(raw_of(entries)[: mended.keep_bytes])
    assert kept == [entry for entry in entries if entry.end <= end]
    assert (mended.missing is None) == ((kept[-1].end if kept else BASE) == end)


@given(st.binary(max_size=400), st.integers(0, 10**9), st.integers(0, 10**18))
def test_garbage_is_mended_too(raw: bytes, length: int, mtime_ns: int) -> None:
    mended = mend(raw, BASE, BASE + length, mtime_ns)
    whole = decode(raw[: mended.keep_bytes]) + ([mended.missing] if mended.missing else [])
    assert (whole[-1].end if whole else BASE) == BASE + length
    assert all(a.time_ns <= b.time_ns and a.end < b.end for a, b in pairwise(whole))


@given(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=10))
def test_the_names_of_segments_sort_as_their_offsets(bases: list[int]) -> None:
    names = [segment_name("stdout", base, ".log") for base in bases]
    noise = [
        "end",
        "stdout.log",
        "stdout.7.log",
        "stdout.xx.log",
        segment_name("stderr", 3, ".log"),
        "stdout.idx",
    ]
    assert bases_of("stdout", names + noise) == sorted(bases)
    assert sorted(names) == [segment_name("stdout", base, ".log") for base in sorted(bases)]


def test_entries_are_found_by_offset_and_by_time() -> None:
    entries = [Entry(10, 100), Entry(20, 200), Entry(30, 300)]
    assert [first_after(entries, offset) for offset in (0, 99, 100, 299, 300)] == [0, 0, 1, 2, 3]
    assert [first_since(entries, time_ns) for time_ns in (0, 10, 11, 30, 31)] == [0, 0, 1, 2, 3]
    assert spans(entries[:2], 50) == [Span(10, 50, 100), Span(20, 100, 200)]


def test_stamps_grow_even_when_the_clock_goes_back() -> None:
    stamps = Stamps()
    first, second, third = stamps.stamp(1000.0), stamps.stamp(10.0), stamps.stamp(2000.0)
    assert first == 1000 * 10**9
    assert second == first + 1
    assert third == 2000 * 10**9
    stamps.seen(3000 * 10**9)
    assert stamps.stamp(2500.0) == 3000 * 10**9 + 1
