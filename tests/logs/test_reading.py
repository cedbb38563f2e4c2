"""Reader and seek on logs made by hand, against a plain model: order, tail, since, until, resuming, dropped segments."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mill.logs import reader as reader_module
from mill.logs.frames import Cursor, LogChunk, LogRequest, split_lines
from mill.logs.index import NS_PER_S, STREAMS, Entry, Stream, encode, segment_name
from mill.logs.reader import TaskReader
from mill.logs.seek import start_of

Write = tuple[Stream, bytes]
Line = tuple[int, Stream, bytes]

writes = st.lists(
    st.tuples(st.sampled_from(STREAMS), st.text("abc\n\n", min_size=1, max_size=9).map(str.encode)),
    max_size=25,
)


def make_log(directory: Path, writes: list[Write], segment_bytes: int) -> None:
    """As a capture would have written it: one write a second, a new segment once one holds *segment_bytes*."""
    ends = dict.fromkeys(STREAMS, 0)
    bases = dict.fromkeys(STREAMS, 0)
    for second, (stream, data) in enumerate(writes, start=1):
        if ends[stream] - bases[stream] >= segment_bytes:
            bases[stream] = ends[stream]
        ends[stream] += len(data)
        for suffix, added in (".log", data), (".idx", encode(Entry(second * NS_PER_S, ends[stream]))):
            with (directory / segment_name(stream, bases[stream], suffix)).open("ab") as file:
                file.write(added)


def model(writes: list[Write]) -> list[Line]:
    """The lines in the order in which their ends came; a line without an end came with its last bytes."""
    lines: list[Line] = []
    begun: dict[Stream, tuple[int, bytes]] = {}
    for second, (stream, data) in enumerate(writes, start=1):
        _, before = begun.pop(stream, (0, b""))
        for line in split_lines(before + data):
            if line.endswith(b"\n"):
                lines.append((second, stream, line))
            else:
                begun[stream] = second, line
    lines += [(second, stream, line) for stream, (second, line) in begun.items()]
    return sorted(lines, key=lambda line: line[0])


def read_all(directory: Path, request: LogRequest) -> list[LogChunk]:
    reader = TaskReader(directory, request.streams, start_of(directory, request), request.until)
    try:
        return [chunk for chunks in iter(lambda: reader.batch(0), []) for chunk in chunks]
    finally:
        reader.close()


def lines_of(chunks: list[LogChunk]) -> list[Line]:
    return [(round(chunk.time), chunk.stream, line) for chunk in chunks for line in split_lines(chunk.data)]


@settings(deadline=None)
@given(writes, st.integers(1, 30))
def test_both_streams_are_merged_by_the_time_at_which_their_lines_ended(
    writes: list[Write], segment: int
) -> None:
    with TemporaryDirectory() as directory:
        make_log(Path(directory), writes, segment)
        chunks = read_all(Path(directory), LogRequest())
        assert lines_of(chunks) == model(writes)
        for stream in STREAMS:
            only = read_all(Path(directory), LogRequest(stream=stream))
            assert lines_of(only) == [line for line in model(writes) if line[1] == stream]


@settings(deadline=None, max_examples=200)
@given(
    writes,
    st.integers(1, 30),
    st.none() | st.integers(0, 12),
    st.none() | st.integers(0, 26),
    st.none() | st.integers(0, 26),
    st.none() | st.sampled_from(STREAMS),
)
def test_tail_since_and_until_show_the_same_lines_as_reading_all_and_choosing(
    writes: list[Write],
    segment: int,
    tail: int | None,
    since: int | None,
    until: int | None,
    stream: Stream | None,
) -> None:
    expected = [
        (second, each, line)
        for second, each, line in model(writes)
        if (since is None or second >= since) and (until is None or second < until) and stream in {None, each}
    ]
    if tail is not None:
        expected = expected[max(0, len(expected) - tail) :]
    with TemporaryDirectory() as directory:
        make_log(Path(directory), writes, segment)
        request = LogRequest(tail=tail, since=since, until=until, stream=stream)
        assert lines_of(read_all(Path(directory), request)) == expected


@settings(deadline=None)
@given(writes, st.integers(1, 30), st.data())
def test_every_cursor_goes_on_right_after_its_chunk(
    writes: list[Write], segment: int, data: st.DataObject
) -> None:
    with TemporaryDirectory() as directory:
        make_log(Path(directory), writes, segment)
        chunks = read_all(Path(directory), LogRequest())
        if chunks:
            at = data.draw(st.integers(0, len(chunks) - 1))
            later = read_all(Path(directory), LogRequest(cursor=chunks[at].cursor, tail=1, since=99.0))
            assert lines_of(later) == lines_of(chunks[at + 1 :])


@settings(deadline=None)
@given(writes, st.integers(1, 8), st.data())
def test_a_reader_is_told_how_much_was_dropped(
    writes: list[Write], segment: int, data: st.DataObject
) -> None:
    """The oldest segments of a stream are gone: first so many bytes dropped, then every byte that is left."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        make_log(directory, writes, segment)
        whole = b"".join(each for stream, each in writes if stream == "stdout")
        logs = sorted(directory.glob("stdout.*.log"))
        dropped = 0
        for path in logs[: data.draw(st.integers(0, max(0, len(logs) - 1)))]:
            dropped += path.stat().st_size
            path.unlink()
            path.with_suffix(".idx").unlink()
        chunks = [chunk for chunk in read_all(directory, LogRequest()) if chunk.stream == "stdout"]
        assert [chunk.dropped_bytes for chunk in chunks if chunk.dropped_bytes] == [dropped] * (dropped > 0)
        assert b"".join(chunk.data for chunk in chunks) == whole[dropped:]
        if dropped:
            assert (chunks[0].data, chunks[0].cursor.split("-")[0]) == (b"", str(dropped))
        tail = read_all(directory, LogRequest(tail=1, stream="stdout"))
        assert sum(chunk.dropped_bytes for chunk in tail) == (dropped if not whole[dropped:] else 0)


def test_segments_dropped_under_a_slow_reader_are_reported_when_it_comes_to_them(tmp_path: Path) -> None:
    make_log(tmp_path, [("stdout", b"%d\n" % i) for i in range(5)], 2)
    reader = TaskReader(tmp_path, STREAMS, Cursor(), None)
    assert [chunk.data for chunk in reader.batch(0)] == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]
    for path in tmp_path.glob("stdout.*"):
        path.unlink()
    make_log(tmp_path, [("stdout", b"%d\n" % i) for i in range(10)], 2)
    for i in range(8):
        for suffix in (".log", ".idx"):
            (tmp_path / segment_name("stdout", 2 * i, suffix)).unlink()
    assert [(chunk.data, chunk.dropped_bytes) for chunk in reader.batch(0)] == [
        (b"", 6),
        (b"8\n", 0),
        (b"9\n", 0),
    ]
    reader.close()


def test_all_that_was_dropped_of_a_finished_log_is_reported_at_its_end(tmp_path: Path) -> None:
    reader = TaskReader(tmp_path, STREAMS, Cursor(3, 0), None)
    assert reader.batch(0) == []
    assert [
        (chunk.stream, chunk.dropped_bytes, chunk.cursor) for chunk in reader.lost(Cursor(10, 5), 1.0)
    ] == [
        ("stdout", 7, "10-0"),
        ("stderr", 5, "10-5"),
    ]
    assert reader.lost(Cursor(10, 5), 1.0) == []


def test_chunks_end_with_a_line_unless_the_line_is_longer_than_a_chunk(tmp_path: Path) -> None:
    long = b"x" * (reader_module.CHUNK_BYTES * 2 + 5) + b"\n"
    short = b"a line of some length\n" * 20_000
    make_log(
        tmp_path, [("stdout", short), ("stderr", b"e\n"), ("stdout", long), ("stdout", b"after\n")], 10**9
    )
    chunks = read_all(tmp_path, LogRequest(stream="stdout"))
    assert b"".join(chunk.data for chunk in chunks) == short + long + b"after\n"
    assert max(len(chunk.data) for chunk in chunks) <= reader_module.CHUNK_BYTES
    assert [chunk.data[-1:] for chunk in chunks].count(b"x") == 2
    assert lines_of(read_all(tmp_path, LogRequest(tail=2))) == [
        (3, "stdout", long[:65536]), (3, "stdout", long[65536:131072]), (3, "stdout", long[131072:]), (4, "stdout", b"after\n"),
    ]  # fmt: skip


def test_a_chunk_of_very_short_lines_is_short_too(tmp_path: Path) -> None:
    make_log(tmp_path, [("stdout", b"\n" * 5000)], 10**9)
    chunks = read_all(tmp_path, LogRequest())
    assert {len(chunk.data) for chunk in chunks[:-1]} == {reader_module.CHUNK_LINES}
    assert sum(len(chunk.data) for chunk in chunks) == 5000


def test_a_stream_without_news_is_not_looked_at(tmp_path: Path) -> None:
    """What a follower of many lines on one stream would pay for the other."""
    make_log(tmp_path, [("stdout", b"a\n")], 100)
    reader = TaskReader(tmp_path, STREAMS, Cursor(), None)
    assert [chunk.data for chunk in reader.batch(0)] == [b"a\n"]
    assert reader.dry
    make_log(tmp_path, [("stderr", b"b\n")], 100)
    assert reader.batch(0, ["stdout"]) == []
    assert [chunk.data for chunk in reader.batch(0, ["stderr"])] == [b"b\n"]
    reader.close()


def test_a_line_that_goes_on_before_it_was_given_is_given_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has looked at the unfinished line already, but the other stream's came first."""
    monkeypatch.setattr(reader_module, "BATCH_CHUNKS", 1)
    writes: list[Write] = [("stderr", b"e\n"), ("stdout", b"par")]
    make_log(tmp_path, writes, 100)
    reader = TaskReader(tmp_path, STREAMS, Cursor(), None)
    assert [chunk.data for chunk in reader.batch(0)] == [b"e\n"]
    with (tmp_path / segment_name("stdout", 0, ".log")).open("ab") as log:
        log.write(b"tial\n")
    with (tmp_path / segment_name("stdout", 0, ".idx")).open("ab") as index:
        index.write(encode(Entry(3 * NS_PER_S, 8)))
    assert [(chunk.time, chunk.data) for chunk in reader.batch(0)] == [(3.0, b"partial\n")]
    reader.close()


def test_tail_reads_from_the_end_and_not_the_whole_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many segments there are, the last line costs its own and at most the one before."""
    make_log(tmp_path, [("stdout", b"line %d\n" % i) for i in range(400)], 80)
    opened: list[str] = []
    monkeypatch.setattr(Path, "open", _noting(Path.open, opened))
    request = LogRequest(tail=1)
    start = start_of(tmp_path, request)
    monkeypatch.undo()
    assert len(list(tmp_path.glob("*.log"))) > 40
    assert 0 < len(set(opened)) <= 4
    assert start.stdout == sum(len(b"line %d\n" % i) for i in range(399))


def _noting(real: object, opened: list[str]) -> object:
    def note(self: Path, *args: object, **kwargs: object) -> object:
        opened.append(self.name)
        return real(self, *args, **kwargs)  # type: ignore[operator]

    return note


def test_a_segment_shorter_than_its_index_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    make_log(tmp_path, [("stdout", b"0123456789\n")], 100)
    os.truncate(tmp_path / segment_name("stdout", 0, ".log"), 5)
    with pytest.raises(OSError, match="shorter than its index"):
        read_all(tmp_path, LogRequest())
