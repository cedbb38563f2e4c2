"""Server-sent events out of bytes, however they are cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mill.client.sse import Block, SseDecoder

WIRE = (
    b': hello\nid: e-1\n\nevent: task\ndata: {"a":\ndata: 1}\nid:e-2\nretry: 5\n\n'
    b"data:  two spaces\n\nevent: gap\ndata: \xc3\xa4\n\nid: e-3\ndata: never finished\n"
)
BLOCKS = [
    Block("message", "", "e-1"),
    Block("task", '{"a":\n1}', "e-2"),
    Block("message", " two spaces", None),
    Block("gap", "\u00e4", None),
]


@given(st.lists(st.integers(0, len(WIRE)), max_size=20))
def test_blocks_survive_the_wire_however_it_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WIRE)]
    decoder = SseDecoder()
    pieces = [WIRE[begin:end] for begin, end in pairwise(edges)]
    assert [block for piece in pieces for block in decoder.feed(piece)] == BLOCKS
