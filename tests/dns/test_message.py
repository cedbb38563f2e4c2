"""Reading what comes from outside: against dnspython, by broken bytes one by one, and at the limits of names and messages."""

import struct

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.tsigkeyring
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.dns import message
from mill.dns.message import Frames, Question, frame, read
from tests.dns.book import query

ID = 0x1234
HEADER = struct.pack("!6H", ID, 0x0100, 1, 0, 0, 0)
ASKED = b"\x03web\x04mill\x00\x00\x01\x00\x01"
OPT = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"


def counts(
    questions: int = 1, answers: int = 0, authorities: int = 0, additionals: int = 0, flags: int = 0
) -> bytes:
    return struct.pack("!6H", ID, flags, questions, answers, authorities, additionals)


def refused(wire: bytes) -> int:
    """The rcode of an answer that has nothing but a header."""
    made = read(wire)
    assert isinstance(made, bytes), made
    assert (len(made), made[:2]) == (12, struct.pack("!H", ID))
    assert made[2] & 0x80
    return made[3] & 15


def question(wire: bytes) -> Question:
    made = read(wire)
    assert isinstance(made, Question), made
    return made


@pytest.mark.parametrize(
    "wire", [b"", b"\x12\x34", HEADER[:11], counts(flags=0x8000) + ASKED, counts(flags=0xFFFF)]
)
def test_what_is_no_query_gets_no_answer(wire: bytes) -> None:
    assert read(wire) is None


@pytest.mark.parametrize("opcode", range(1, 16))
def test_other_opcodes_are_not_implemented(opcode: int) -> None:
    wire = counts(flags=opcode << 11) + ASKED
    assert refused(wire) == message.NOTIMP
    assert read(wire)[2] >> 3 & 15 == opcode  # type: ignore[index]


@pytest.mark.parametrize("wire", [
    HEADER,
    counts(0), counts(0) + ASKED, counts(2) + ASKED, counts(2) + ASKED + ASKED, counts(65535) + ASKED,
    HEADER + ASKED[:-1], HEADER + ASKED[:-4], HEADER + ASKED[:-5], HEADER + ASKED + b"x",
    HEADER + b"\xc0\x0c\x00\x01\x00\x01",  # a name that is itself
    HEADER + b"\x03web\xc0\x0c\x00\x01\x00\x01",
    HEADER + b"\xc0\xff\x00\x01\x00\x01",
    HEADER + b"\x40" + b"a" * 64 + b"\x00\x00\x01\x00\x01",  # labels of reserved types
    HEADER + b"\x80\x01a\x00\x00\x01\x00\x01",
    HEADER + b"\x3f" + b"a" * 62,
    HEADER + (b"\x3f" + b"a" * 63) * 4 + b"\x00\x00\x01\x00\x01",  # 257 octets
    HEADER + (b"\x01a") * 127 + b"\x01b\x00\x00\x01\x00\x01",
    counts(1, 0, 0, 1) + ASKED,
    counts(1, 0, 0, 1) + ASKED + OPT[:-1], counts(1, 0, 0, 1) + ASKED + OPT + b"x",
    counts(1, 0, 0, 1) + ASKED + OPT[:-1] + b"\x04",
    counts(1, 0, 0, 1) + ASKED + OPT[:-1] + b"\x04\x00\x0a\x00\x09",  # an option beyond its end
    counts(1, 0, 0, 1) + ASKED + OPT[:-1] + b"\x03\x00\x0a\x00",
    counts(1, 0, 0, 2) + ASKED + OPT + OPT,
    counts(1, 0, 0, 65535) + ASKED + OPT,
    counts(1, 1) + ASKED + b"\xc0\x17" * 40,  # pointers at themselves
    counts(1, 0, 0, 1) + ASKED + b"\x01x" + OPT[1:],  # an OPT of a name that is not the root's
])  # fmt: skip
def test_malformed_queries_are_told_so(wire: bytes) -> None:
    assert refused(wire) == message.FORMERR


@pytest.mark.parametrize("name", [
    ".".join(["a" * 63] * 3 + ["a" * 61]), ".".join(["a"] * 127), "a" * 63, ".", r"a\000b", r"\255.\192.mill",
])  # fmt: skip
def test_every_name_up_to_255_octets_and_labels_of_63_are_read(name: str) -> None:
    wire = query(name)
    assert question(wire).name == dns.name.from_text(name).to_wire()


def test_a_signed_query_is_read_as_if_it_were_not_signed() -> None:
    asked = dns.message.make_query("web.mill", "A", use_edns=0)
    asked.use_tsig(dns.tsigkeyring.from_text({"key.": "c2VjcmV0"}))
    made = question(asked.to_wire())
    assert (made.name, made.size) == (b"\x03web\x04mill\x00", 1232)


def test_records_that_mean_nothing_in_a_query_are_passed_over() -> None:
    record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04\x0a\x00\x00\x01"
    assert question(counts(1, 1) + ASKED + record).size is None
    assert question(counts(1, 0, 0, 2) + ASKED + record + OPT).size == 1232
    assert question(counts(1, 0, 0, 1) + ASKED + record).size is None


def test_options_are_passed_over() -> None:
    cookie = b"\x00\x0a\x00\x08abcdefgh\x00\x0c\x00\x00"
    made = question(counts(1, 0, 0, 1) + ASKED + OPT[:-1] + bytes((len(cookie),)) + cookie)
    assert (made.size, made.version, made.dnssec_ok) == (1232, 0, False)


names = st.lists(st.binary(min_size=1, max_size=63), max_size=6).filter(
    lambda parts: sum(map(len, parts)) < 240
)


@given(
    names,
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.sampled_from(["", "edns", "dnssec"]),
    st.integers(0, 65535),
)
def test_a_query_is_read_as_dnspython_reads_it(
    parts: list[bytes], type_: int, id_: int, edns: str, payload: int
) -> None:
    asked = dns.message.make_query(
        dns.name.Name([*parts, b""]), dns.rdatatype.RdataType.make(type_), use_edns=0 if edns else -1, payload=payload, want_dnssec=edns == "dnssec",
    )  # fmt: skip
    asked.id = id_
    made = question(asked.to_wire())
    assert made.name == (asked.question[0].name.to_wire() or b"").lower()
    assert (made.id, made.type, made.class_, made.version) == (id_, type_, 1, 0)
    assert made.size == (payload if edns else None)
    assert made.dnssec_ok == (edns == "dnssec")


@given(st.binary(max_size=80), st.integers(0, 3), st.integers(0, 3))
def test_whatever_dnspython_finds_malformed_is_never_taken_for_a_question(
    tail: bytes, answers: int, more: int
) -> None:
    wire = counts(1, answers, 0, more) + ASKED + tail
    try:
        dns.message.from_wire(wire, keyring=False)
    except dns.exception.DNSException:
        assert refused(wire) == message.FORMERR
    else:
        assert question(wire).name == b"\x03web\x04mill\x00"


@given(st.lists(st.binary(max_size=300), max_size=6), st.data())
def test_frames_come_out_of_a_stream_in_any_pieces(wires: list[bytes], data: st.DataObject) -> None:
    stream, frames, found = b"".join(map(frame, wires)), Frames(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += frames.feed(stream[:cut])
        stream = stream[cut:]
    assert found == wires
