"""Bytes to and from upstream: what is believed, how long it holds, how it is handed on; and resolv.conf."""

from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.dns import upstream
from mill.dns.message import Question, read
from mill.dns.upstream import Reply, Sent, judge, parse_resolv_conf
from tests.dns.book import query, texts
from tests.dns.resolver import cut, respond

CASE = 0x5555555555


def question(name: str, type_: str = "A", **options: Any) -> Question:
    made = read(query(name, type_, **options))
    assert isinstance(made, Question)
    return made


def sent(name: str = "www.example.com", type_: str = "A") -> Sent:
    return upstream.ask(question(name, type_), 77, CASE)


def honest(asked: Sent) -> dns.message.Message:
    return respond(dns.message.from_wire(asked.wire))


def wire_of(message: dns.message.Message) -> bytes:
    return message.to_wire(max_size=65535)


def reply(name: str, type_: str = "A") -> Reply:
    asked = sent(name, type_)
    made = judge(wire_of(honest(asked)), asked)
    assert made is not None
    return made


@given(st.integers(0, 2**256), st.integers(0, 65535))
def test_a_question_goes_out_in_any_case_with_our_size_and_id(case: int, id_: int) -> None:
    made = dns.message.from_wire(upstream.ask(question("WWW.example.com", "AAAA"), id_, case).wire)
    assert (made.id, made.payload, made.question[0].rdtype.name) == (id_, 1232, "AAAA")
    assert made.question[0].name == dns.name.from_text("www.example.com")
    upper = [char.isupper() for char in str(made.question[0].name) if char.isalpha()]
    assert upper == [bool(case >> at & 1) for at in range(len(upper))]


def test_flags_that_are_the_clients_to_choose_are_passed_on() -> None:
    asked = dns.message.make_query("a.example", "A", flags=dns.flags.CD, use_edns=0, want_dnssec=True)
    made = read(asked.to_wire())
    assert isinstance(made, Question)
    out = dns.message.from_wire(upstream.ask(made, 1, 0).wire)
    assert out.flags & (dns.flags.CD | dns.flags.RD) == dns.flags.CD
    assert out.ednsflags & dns.flags.DO


def test_an_answer_to_the_very_question_is_believed() -> None:
    asked = sent()
    assert judge(honest(asked).to_wire(), asked) is not None


@pytest.mark.parametrize("forge", [
    lambda _: b"",
    lambda wire: wire[:11],
    lambda wire: b"\0\0" + wire[2:],  # another id
    lambda wire: wire.lower(),  # the case that was asked for is not known to who did not see it
    lambda wire: wire[:2] + b"\x01" + wire[3:],  # a query
    lambda wire: wire[:5] + b"\0" + wire[6:],  # no question
    lambda wire: wire[:5] + b"\2" + wire[6:],
    lambda wire: wire[:13] + b"x" + wire[14:],  # another name
    lambda wire: wire[:30] + b"\x1c" + wire[31:],  # another type
    lambda wire: wire[:-5],  # cut off without a word
    lambda wire: wire[:33] + b"\xc0\x21" + wire[35:],  # a name that points at itself
])  # fmt: skip
def test_what_is_forged_or_broken_is_no_answer(forge: object) -> None:
    asked = sent()
    wire = honest(asked).to_wire()
    assert callable(forge)
    assert forge(wire) != wire
    assert judge(forge(wire), asked) is None


def test_an_answer_that_is_cut_off_anywhere_says_so_and_nothing_else() -> None:
    asked = sent("big.example.com", "TXT")
    wire = cut(dns.message.from_wire(asked.wire)).to_wire()
    for tail in (b"", b"\xc0", b"\xff" * 9):
        made = judge(wire + tail, asked)
        assert made is not None
        assert (made.truncated, made.ttl_s, made.ttls) == (True, 0, ())


def test_an_extended_rcode_is_no_answer() -> None:
    asked = sent()
    made = honest(asked)
    made.set_rcode(dns.rcode.BADVERS)
    assert judge(made.to_wire(), asked) is None


@pytest.mark.parametrize(("name", "type_", "ttl_s"), [
    ("www.example.com", "A", 60), ("alias.example.com", "A", 30), ("now.example.com", "A", 0),
    ("www.example.com", "AAAA", 20), ("none.example.com", "A", 20),
])  # fmt: skip
def test_an_answer_holds_for_its_shortest_ttl_and_an_absence_for_its_soas_minimum(
    name: str, type_: str, ttl_s: int
) -> None:
    assert reply(name, type_).ttl_s == ttl_s


def test_long_ttls_are_capped_and_those_past_31_bits_count_as_none() -> None:
    asked = sent()
    for said, ttl_s in ((86400, upstream.MOST_POSITIVE_TTL_S), (2**31 - 1, upstream.MOST_POSITIVE_TTL_S)):
        made = honest(asked)
        made.answer[0].ttl = said
        believed = judge(made.to_wire(), asked)
        assert believed is not None
        assert believed.ttl_s == ttl_s
    wire = bytearray(honest(asked).to_wire())
    at = wire.index(b"\x00\x00\x00\x3c\x00\x04")
    wire[at] = 0x80
    believed = judge(bytes(wire), asked)
    assert believed is not None
    assert believed.ttl_s == 0


def test_an_absence_without_a_soa_or_a_failure_is_not_kept() -> None:
    asked = sent("none.example.com")
    made = honest(asked)
    made.authority.clear()
    without = judge(made.to_wire(), asked)
    made = honest(asked)
    made.set_rcode(dns.rcode.SERVFAIL)
    failed = judge(made.to_wire(), asked)
    assert without is not None
    assert failed is not None
    assert (without.ttl_s, failed.ttl_s, failed.rcode) == (0, 0, 2)


@pytest.mark.parametrize("edns", [{}, {"use_edns": 0}, {"use_edns": 0, "want_dnssec": True}])
def test_a_client_gets_its_own_id_and_case_and_edns_only_if_it_has_it(edns: dict[str, Any]) -> None:
    made = reply("www.example.com").to(asked := question("Www.EXAMPLE.com", **edns), udp=True)
    said = dns.message.from_wire(made)
    assert said.id == asked.id
    assert str(said.question[0].name) == "Www.EXAMPLE.com."
    assert texts(said.answer) == ["Www.EXAMPLE.com. 60 A 203.0.113.7"]
    assert said.edns == (0 if edns else -1)
    assert bool(said.ednsflags & dns.flags.DO) == ("want_dnssec" in edns)
    assert said.flags & dns.flags.RA
    assert not said.flags & dns.flags.AA


def test_age_is_taken_off_every_ttl() -> None:
    said = dns.message.from_wire(
        reply("alias.example.com").to(question("alias.example.com"), udp=True, age_s=29)
    )
    assert texts(said.answer) == [
        "alias.example.com. 31 CNAME www.example.com.",
        "www.example.com. 1 A 203.0.113.7",
    ]


def test_what_does_not_fit_a_datagram_is_cut_off_and_fits_a_stream() -> None:
    asked = question("big.example.com", "TXT", use_edns=0, payload=65535)
    big = reply("big.example.com", "TXT")
    datagram, stream = (dns.message.from_wire(big.to(asked, udp=udp)) for udp in (True, False))
    assert (datagram.answer, bool(datagram.flags & dns.flags.TC)) == ([], True)
    assert (len(texts(stream.answer)), bool(stream.flags & dns.flags.TC)) == (20, False)


def test_what_follows_an_opt_goes_with_it() -> None:
    asked = sent()
    wire = bytearray(honest(asked).to_wire())
    wire[11] += 1
    extra = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x01\x02\x03\x04"
    made = judge(bytes(wire) + extra, asked)
    assert made is not None
    said = dns.message.from_wire(made.wire)
    assert (said.additional, said.edns, made.ttl_s) == ([], -1, 60)


def test_additional_records_stay() -> None:
    asked = sent()
    made = honest(asked)
    made.additional.append(dns.rrset.from_text("x.example.com.", 5, "IN", "A", "203.0.113.1"))
    believed = judge(made.to_wire(), asked)
    assert believed is not None
    (shown,) = texts(dns.message.from_wire(believed.wire).additional)
    assert (shown.lower(), believed.ttl_s) == ("x.example.com. 5 a 203.0.113.1", 5)


def test_resolv_conf_is_read_as_its_readers_read_it() -> None:
    text = "# nameserver 1.1.1.1\nsearch lan\n nameserver 192.0.2.53 # mine\nnameserver\nnameserver x\nnameserver 2001:db8::1\n"
    assert parse_resolv_conf(text) == [("192.0.2.53", 53), ("2001:db8::1", 53)]
    assert parse_resolv_conf("nameserver 127.0.0.53\noptions edns0 trust-ad\n") == [("127.0.0.53", 53)]
    assert parse_resolv_conf("nameserver fe80::1%eth0\n") == [("fe80::1%eth0", 53)]
    assert len(parse_resolv_conf("".join(f"nameserver 192.0.2.{n}\n" for n in range(9)))) == 3
    assert parse_resolv_conf("\x00\xff nonsense") == []


def test_ourselves_are_recognized() -> None:
    ours = [("127.0.0.1", 4453), ("0.0.0.0", 53)]
    assert upstream.is_one_of(("127.0.0.1", 4453), ours, local=True)
    assert upstream.is_one_of(("192.0.2.1", 53), ours, local=True)
    assert not upstream.is_one_of(("192.0.2.1", 53), ours, local=False)
    assert not upstream.is_one_of(("127.0.0.1", 5353), ours, local=True)
