"""Log lines out of NDJSON, however it is cut, and what a query sends."""

import json
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.client.lines import Decoder, LogLine, line_json, query
from mill.errors import FieldError
from mill.model import Time

NOW = Time(1767323045.678)
LINES = st.builds(
    LogLine,
    stream=st.sampled_from(["stdout", "stderr"]),
    time=st.just(NOW),
    data=st.binary(max_size=40),
    cursor=st.text("0123456789abc", min_size=1, max_size=8),
    dropped_bytes=st.integers(0, 10**12),
)


@given(st.lists(LINES, max_size=8), st.lists(st.integers(0, 2000), max_size=8))
def test_lines_survive_the_wire_however_it_is_cut(lines: list[LogLine], cuts: list[int]) -> None:
    wire = b"".join(json.dumps(line_json(line)).encode() + b"\n" for line in lines)
    edges = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    decoder = Decoder()
    found = [line for a, b in pairwise(edges) for line in decoder.feed(wire[a:b])]
    assert found == lines


def test_half_a_line_is_kept_back() -> None:
    text = json.dumps(line_json(LogLine("stdout", NOW, b"a\n", "c1"))).encode()
    decoder = Decoder()
    assert decoder.feed(text) == []
    assert decoder.feed(b"\n\n") == [LogLine("stdout", NOW, b"a\n", "c1")]


def test_a_query_checks_what_it_is_given() -> None:
    def params(**said: object) -> dict[str, str]:
        every = {"follow": False, "tail": None, "since": None, "until": None, "stream": None, "cursor": None}
        return dict(query(**{**every, **said}).params())  # type: ignore[arg-type]

    assert params() == {}
    assert params(follow=True, tail=0, since=NOW, until=datetime(2026, 1, 2, tzinfo=UTC)) == {
        "follow": "true", "tail": "0", "since": "2026-01-02T03:04:05.678Z", "until": "2026-01-02T00:00:00.000Z",
    }  # fmt: skip
    assert params(cursor="c9", tail=5, since="2026-01-02") == {"cursor": "c9"}
    for bad in ({"tail": -1}, {"stream": "stdin"}, {"since": "yesterday"}, {"until": 1e300}):
        with pytest.raises(FieldError, match=next(iter(bad))):
            params(**bad)
