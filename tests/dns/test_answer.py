"""What every kind of query gets, as transcripts: asked by dnspython, answered by the pure core, read by dnspython."""

from ipaddress import IPv4Network
from typing import Any

import attrs
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import pytest

from mill.dns.answer import Forward, Miss, answer
from mill.dns.names import Known, Learnt, Name, Unsure
from tests.dns.book import NODE, ZONE, ask, query, texts

SOA = "mill. 1 SOA ns.mill. hostmaster.mill. 1 1 1 1 1"


def length(said: dns.message.Message) -> int:
    return len(said.to_wire(max_size=65535))


def code(said: dns.message.Message) -> str:
    return dns.rcode.to_text(said.rcode())


@pytest.mark.parametrize(("name", "type_", "answers"), [
    ("web-a1b2.mill", "A", ["web-a1b2.mill. 1 A 10.99.0.2"]),
    ("on-node-g7h8.mill", "A", [f"on-node-g7h8.mill. 1 A {NODE}"]),
    ("dual-c3d4.mill", "A", ["dual-c3d4.mill. 1 A 10.99.1.7"]),
    ("dual-c3d4.mill", "AAAA", ["dual-c3d4.mill. 1 AAAA 2001:db8::7"]),
    ("web-a1b2.mill", "ANY", ['web-a1b2.mill. 1 HINFO "RFC8482" ""']),
    ("_task._tcp.web-a1b2.mill", "SRV", ["_task._tcp.web-a1b2.mill. 1 SRV 0 0 8080 web-a1b2.mill."]),
    ("_task._tcp.web-a1b2.mill", "ANY", ['_task._tcp.web-a1b2.mill. 1 HINFO "RFC8482" ""']),
    ("2.0.99.10.in-addr.arpa", "PTR", ["2.0.99.10.in-addr.arpa. 1 PTR web-a1b2.mill."]),
    ("mill", "SOA", [SOA]),
    ("mill", "ANY", [SOA]),
    ("mill", "NS", ["mill. 1 NS ns.mill."]),
    ("ns.mill", "A", [f"ns.mill. 1 A {NODE}"]),
])  # fmt: skip
def test_what_there_is_is_answered_by_authority(name: str, type_: str, answers: list[str]) -> None:
    said = ask(name, type_)
    assert (code(said), texts(said.answer), said.authority) == ("NOERROR", answers, [])
    assert said.flags & dns.flags.AA
    assert said.flags & dns.flags.RA


def test_a_service_brings_the_addresses_of_its_target() -> None:
    said = ask("_task._tcp.dual-c3d4.mill", "SRV")
    assert texts(said.answer) == ["_task._tcp.dual-c3d4.mill. 1 SRV 0 0 443 dual-c3d4.mill."]
    assert texts(said.additional) == ["dual-c3d4.mill. 1 A 10.99.1.7", "dual-c3d4.mill. 1 AAAA 2001:db8::7"]


@pytest.mark.parametrize(("name", "type_", "soa"), [
    ("web-a1b2.mill", "AAAA", SOA),
    ("web-a1b2.mill", "TXT", SOA),
    ("web-a1b2.mill", "TYPE65280", SOA),
    ("lone-e5f6.mill", "A", SOA),
    ("_task._tcp.lone-e5f6.mill", "SRV", SOA),
    ("_task._tcp.web-a1b2.mill", "A", SOA),
    ("_tcp.web-a1b2.mill", "SRV", SOA),
    ("mill", "A", SOA),
    ("ns.mill", "AAAA", SOA),
    ("2.0.99.10.in-addr.arpa", "A", SOA.replace("mill.", "99.10.in-addr.arpa.", 1)),
])  # fmt: skip
def test_a_name_without_such_a_record_gets_no_error_and_the_zones_soa(
    name: str, type_: str, soa: str
) -> None:
    said = ask(name, type_)
    assert (code(said), said.answer, texts(said.authority)) == ("NOERROR", [], [soa])


@pytest.mark.parametrize("name", [
    "gone-0000.mill", "a.web-a1b2.mill", "_task.web-a1b2.mill", "_udp.web-a1b2.mill", "x._task._tcp.web-a1b2.mill",
    "_task._tcp.gone-0000.mill", "_tcp.gone-0000.mill", "a.ns.mill", "a.b.c.d.mill", "3.0.99.10.in-addr.arpa",
    r"web-a1b2\000.mill", r"web-a1b2\.mill.mill", r"\195\164.mill", "x" * 63 + ".mill",
])  # fmt: skip
@pytest.mark.parametrize("type_", ["A", "SRV", "ANY"])
def test_what_there_is_not_is_denied_with_a_soa_above_it(name: str, type_: str) -> None:
    said = ask(name, type_)
    (soa,) = said.authority
    assert (code(said), said.answer) == ("NXDOMAIN", [])
    assert said.question[0].name.is_subdomain(soa.name)
    assert (soa.ttl, soa[0].minimum) == (1, 1)


@pytest.mark.parametrize("name", ["maybe-i9j0.mill", "MAYBE-i9j0.Mill", "_task._tcp.maybe-i9j0.mill"])
def test_a_miss_says_what_others_may_know(name: str) -> None:
    made = answer(query(name), ZONE, udp=True)
    assert isinstance(made, Miss)
    assert made.task_id == "maybe-i9j0"


@pytest.mark.parametrize(("found", "code_", "answers"), [
    (Name(("10.99.7.7",), 80), "NOERROR", ["maybe-i9j0.mill. 1 A 10.99.7.7"]), (Name((), 80), "NOERROR", []),
    (None, "NXDOMAIN", []), (Known.UNSURE, "SERVFAIL", []),
])  # fmt: skip
def test_after_others_were_asked_the_same_query_is_answered(
    found: Name | Unsure | None, code_: str, answers: list[str]
) -> None:
    assert isinstance(answer(query("maybe-i9j0.mill"), ZONE, udp=True), Miss)
    said = ask("maybe-i9j0.mill", zone=attrs.evolve(ZONE, names=Learnt(found)))
    assert (code(said), texts(said.answer)) == (code_, answers)


@pytest.mark.parametrize("name", [
    "maybe-i9j0.mill", "_task._tcp.maybe-i9j0.mill", "_tcp.maybe-i9j0.mill", "3.3.99.10.in-addr.arpa",
])  # fmt: skip
def test_what_nobody_can_tell_is_a_failure_and_no_denial(name: str) -> None:
    said = ask(name)
    assert (code(said), said.answer, said.authority) == ("SERVFAIL", [], [])


@pytest.mark.parametrize("name", [
    "example.com", ".", "com", "millx", "mill.example.com", "web-a1b2.mill.example.com", r"abc\004mill", r"x.abc\004mill",
    "1.2.0.192.in-addr.arpa", "99.10.in-addr.arpa", "1.2.0.99.10.in-addr.arpa", "300.0.99.10.in-addr.arpa",
    "a.0.99.10.in-addr.arpa", r"\200.0.99.10.in-addr.arpa", "02.0.99.10.in-addr.arpa", "1.0.0.127.in-addr.arpa", "localhost",
])  # fmt: skip
def test_names_of_others_are_forwarded(name: str) -> None:
    assert isinstance(answer(query(name), ZONE, udp=True), Forward)


def test_without_a_mesh_every_address_is_somebody_elses() -> None:
    assert isinstance(
        answer(query("2.0.99.10.in-addr.arpa", "PTR"), attrs.evolve(ZONE, mesh=None), udp=True), Forward
    )


@pytest.mark.parametrize(("mesh", "zone"), [
    ("10.96.0.0/12", "99.10.in-addr.arpa."), ("10.99.0.0/22", "0.99.10.in-addr.arpa."), ("10.0.0.0/8", "10.in-addr.arpa."),
    ("10.99.0.5/32", "5.0.99.10.in-addr.arpa."),
])  # fmt: skip
def test_the_reverse_zone_is_all_the_meshs(mesh: str, zone: str) -> None:
    said = ask("5.0.99.10.in-addr.arpa", "PTR", attrs.evolve(ZONE, mesh=IPv4Network(mesh)))
    assert (code(said), str(said.authority[0].name)) == ("NXDOMAIN", zone)


@pytest.mark.parametrize(
    "name", ["WeB-a1B2.mIlL", "_TASK._tcp.web-A1b2.MILL", "Gone-0000.MILL", "2.0.99.10.In-Addr.ARPA"]
)
def test_case_is_kept_as_asked(name: str) -> None:
    for type_ in ("A", "SRV", "PTR"):
        said = ask(name, type_)
        assert str(said.question[0].name) == f"{name}."
        assert all(str(records.name) == f"{name}." for records in said.answer)
    assert "web-A1b2.MILL." in texts(ask("_task._tcp.web-A1b2.MILL", "SRV").answer)[0]


@pytest.mark.parametrize(("class_", "type_", "told"), [
    (dns.rdataclass.CH, "TXT", "REFUSED"), (dns.rdataclass.ANY, "A", "REFUSED"), (dns.rdataclass.IN, "AXFR", "REFUSED"),
    (dns.rdataclass.IN, "IXFR", "REFUSED"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["web-a1b2.mill", "example.com", "version.bind"])
def test_other_classes_and_transfers_are_refused_for_every_name(
    class_: dns.rdataclass.RdataClass, type_: str, told: str, name: str
) -> None:
    assert code(ask(name, type_, rdclass=class_)) == told


def test_edns_gets_edns_with_our_size_and_no_edns_gets_none() -> None:
    plain, extended = ask("web-a1b2.mill"), ask("web-a1b2.mill", use_edns=0, payload=4096, want_dnssec=True)
    assert (plain.edns, extended.edns, extended.payload) == (-1, 0, 1232)
    assert extended.ednsflags & dns.flags.DO
    assert texts(plain.answer) == texts(extended.answer)


def test_a_newer_edns_is_told_which_one_we_speak() -> None:
    said = ask("web-a1b2.mill", use_edns=1)
    assert (code(said), said.edns, said.answer) == ("BADVERS", 0, [])


@pytest.mark.parametrize(
    ("payload", "limit"), [(None, 512), (100, 512), (900, 900), (1232, 1232), (65535, 1232)]
)
def test_over_udp_an_answer_is_cut_off_at_what_the_client_takes(payload: int | None, limit: int) -> None:
    edns: dict[str, Any] = {} if payload is None else {"use_edns": 0, "payload": payload}
    cut = ask("many-0000.mill", **edns)
    assert cut.flags & dns.flags.TC
    assert cut.answer == []
    whole = ask("many-0000.mill", udp=False, **edns)
    assert not whole.flags & dns.flags.TC
    assert len(texts(whole.answer)) == 100
    assert length(cut) <= limit < length(whole)


def test_the_longest_names_are_answered() -> None:
    assert texts(ask("l" * 63 + ".mill").answer)
    assert texts(ask("_task._tcp." + "l" * 63 + ".mill", "SRV", use_edns=0).additional)
    deep = ".".join(["a" * 61] * 4) + ".mill"  # 4 * 62 + 6 = 254 octets, and one more
    assert len(dns.name.from_text("b" + deep).to_wire() or b"") == 255
    assert code(ask("b" + deep, use_edns=0)) == "NXDOMAIN"


def test_recursion_desired_and_checking_disabled_are_repeated() -> None:
    asked = dns.message.make_query("web-a1b2.mill", "A", flags=dns.flags.CD)
    made = answer(asked.to_wire(), ZONE, udp=True)
    assert isinstance(made, bytes)
    said = dns.message.from_wire(made)
    assert (said.flags & dns.flags.CD, said.flags & dns.flags.RD) == (dns.flags.CD, 0)
