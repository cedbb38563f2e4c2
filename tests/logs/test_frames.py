"""Chunks to frames and text: no byte lost or doubled, text wherever it is UTF-8, and a right cursor on every line."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.errors import FieldError
from mill.logs.frames import Cursor, Frame, Frames, LogChunk, LogRequest, PlainText, unfinished_bytes
from mill.logs.index import STREAMS, Stream

pieces = st.lists(st.tuples(st.sampled_from(STREAMS), st.binary(min_size=1, max_size=12)), max_size=20)
texts = st.lists(st.tuples(st.sampled_from(STREAMS), st.text("aé\n€\r😀", max_size=10)), max_size=10)


def chunks_of(parts: list[tuple[Stream, bytes]]) -> list[LogChunk]:
    cursor, chunks = Cursor(), []
    for time, (stream, data) in enumerate(parts):
        cursor = cursor.at(stream, cursor.of(stream) + len(data))
        chunks.append(LogChunk(stream, float(time), data, str(cursor)))
    return chunks


def frames_of(chunks: list[LogChunk]) -> list[Frame]:
    frames = Frames()
    return [frame for chunk in chunks for frame in frames.receive(chunk)] + frames.finish()


def joined(parts: list[tuple[Stream, bytes]], stream: Stream) -> bytes:
    return b"".join(data for each, data in parts if each == stream)


@given(pieces)
def test_frames_hold_every_byte_once_and_their_cursors_resume_exactly_there(
    parts: list[tuple[Stream, bytes]],
) -> None:
    """Whatever was framed up to a frame is what its cursor counts: who resumes from it misses and repeats nothing."""
    given_so_far: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
    for frame in frames_of(chunks_of(parts)):
        given_so_far[frame.stream] += frame.data
        counted = Cursor(len(given_so_far["stdout"]), len(given_so_far["stderr"]))
        assert Cursor.parse(frame.cursor) == counted
        assert frame.data.find(b"\n") in {-1, len(frame.data) - 1}
        assert (frame.text is None) or frame.text.encode() == frame.data
    assert given_so_far == {stream: joined(parts, stream) for stream in STREAMS}


@given(texts, st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_text_stays_text_however_its_characters_are_cut(
    texts: list[tuple[Stream, str]], cuts: list[int]
) -> None:
    parts: list[tuple[Stream, bytes]] = []
    for stream, text in texts:
        data, turn = text.encode(), 0
        while data:
            size = cuts[turn % len(cuts)]
            parts.append((stream, data[:size]))
            data, turn = data[size:], turn + 1
    assert [frame for frame in frames_of(chunks_of(parts)) if frame.text is None] == []


def test_a_frame_says_what_the_api_promises() -> None:
    parts: list[tuple[Stream, bytes]] = [("stdout", b"a\nb"), ("stderr", b"\xff\n"), ("stdout", b"\n")]
    objects = [frame.as_object() for frame in frames_of(chunks_of(parts))]
    start = "1970-01-01T00:00:0"
    assert objects == [
        {"stream": "stdout", "time": f"{start}0.000Z", "text": "a\n", "cursor": "2-0"},
        {"stream": "stdout", "time": f"{start}0.000Z", "text": "b", "cursor": "3-0"},
        {
            "stream": "stderr",
            "time": f"{start}1.000Z",
            "base64": base64.b64encode(b"\xff\n").decode(),
            "cursor": "3-2",
        },
        {"stream": "stdout", "time": f"{start}2.000Z", "text": "\n", "cursor": "4-2"},
    ]
    assert json.loads(json.dumps(objects)) == objects


def test_what_was_dropped_is_said_and_ends_a_character_that_was_begun() -> None:
    frames = Frames()
    assert frames.receive(LogChunk("stdout", 0.0, b"a\xe2\x82", "3-0"))[0].cursor == "1-0"
    begun, dropped = frames.receive(LogChunk("stdout", 1.0, b"", "103-0", dropped_bytes=100))
    assert (begun.data, begun.text, begun.cursor) == (b"\xe2\x82", None, "3-0")
    assert dropped.as_object()["dropped_bytes"] == 100
    assert dropped.cursor == "103-0"


def test_a_place_alone_is_an_empty_frame_and_no_text() -> None:
    place = LogChunk("stderr", 0.0, b"", "8-5")
    (frame,) = Frames().receive(place)
    assert frame.as_object() == {
        "stream": "stderr",
        "time": "1970-01-01T00:00:00.000Z",
        "text": "",
        "cursor": "8-5",
    }
    for timestamps in (False, True):
        text = PlainText(timestamps=timestamps)
        assert text.receive(place) == b""
        assert text.receive(LogChunk("stderr", 0.0, b"a\n", "8-7")).endswith(b"a\n")


@given(st.text(max_size=5), st.integers(0, 3))
def test_only_the_beginning_of_a_character_is_held_back(text: str, cut: int) -> None:
    whole = text.encode()
    assert unfinished_bytes(whole) == 0
    last = text[-1:].encode()
    if 0 < cut < len(last):
        assert unfinished_bytes(whole[: len(whole) - len(last) + cut]) == cut


def test_plain_text_is_the_bytes_as_they_are() -> None:
    parts: list[tuple[Stream, bytes]] = [("stdout", b"a\nb"), ("stderr", b"\xff\r\n"), ("stdout", b"c")]
    text = PlainText()
    assert b"".join(text.receive(chunk) for chunk in chunks_of(parts)) == b"a\nb\xff\r\nc"


def test_timestamps_stand_before_each_line_and_not_inside_one() -> None:
    parts: list[tuple[Stream, bytes]] = [("stdout", b"a\nb"), ("stdout", b"c\r\n"), ("stdout", b"d\n")]
    text = PlainText(timestamps=True)
    lines = b"".join(text.receive(chunk) for chunk in chunks_of(parts)).split(b"\n")
    start = b"1970-01-01T00:00:0"
    assert lines == [start + b"0.000Z a", start + b"0.000Z bc\r", start + b"2.000Z d", b""]
    assert (
        text.receive(LogChunk("stdout", 3.0, b"", "0-0", dropped_bytes=2048))
        == b"[2K of stdout were dropped here]\n"
    )


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1-2", "1-2-3", "a-b", "1-2 ", "٣-٤", "1" * 20 + "-0", "\n"]
)
def test_a_cursor_that_is_none_of_ours_is_refused_by_name(text: str) -> None:
    with pytest.raises(FieldError, match=r"^cursor: .*is not a cursor"):
        LogRequest(cursor=text)


def test_a_request_names_the_field_that_makes_no_sense() -> None:
    with pytest.raises(FieldError, match=r"^tail: "):
        LogRequest(tail=-1)
    with pytest.raises(FieldError, match=r"^stream: "):
        LogRequest(stream="stdin")  # type: ignore[arg-type]
    with pytest.raises(FieldError, match=r"^since: "):
        LogRequest(since=float("nan"))
    with pytest.raises(FieldError, match=r"^until: "):
        LogRequest(until=float("inf"))
    assert Cursor.parse(str(Cursor(12, 34))) == (12, 34)
