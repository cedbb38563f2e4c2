"""Names of real tasks on a real node, asked by `dig` as a person would, from the 201 to the end; and names of others."""

import re
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator

import attrs
import dns.message
import dns.query
import dns.rcode
import pytest
import trio

from mill.client import Client
from tests.dns.resolver import Resolver, resolver
from tests.node import MILLD, MakeNode, Node, free_port
from tests.scenarios.acts import end_of, running, spawn
from tests.scrape import Scrape

ADDRESS = "198.51.100.7"
"""What the node is told to be reached by."""
SUBNET = "10.99.252.0/22"
"""The last part of the range: another test's node, which takes the first that is free, is not there while this one's milld is stopped."""


@attrs.frozen
class Dug:
    """What `dig` showed: the status, the answers as ``owner type data``, and all of it."""

    status: str
    answers: list[str]
    text: str


def dig(node: Node, *words: str) -> Dug:
    done = subprocess.run(
        ["dig", "@127.0.0.1", "-p", str(node.dns_port), "+tries=1", "+time=5", *words],
        check=True, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    status = re.search(r"status: (\w+)", done.stdout)
    assert status is not None, done.stdout
    _, _, rest = done.stdout.partition(";; ANSWER SECTION:\n")
    rows = [line.split(maxsplit=4) for line in rest.partition("\n\n")[0].splitlines()]
    return Dug(status[1], [f"{row[0]} {row[3]} {row[4]}" for row in rows], done.stdout)


@pytest.fixture(scope="module")
def above() -> Iterator[Resolver]:
    with resolver() as above:
        yield above


@pytest.fixture(scope="module")
def named(above: Resolver) -> Iterator[Node]:
    """A node that asks the test's resolver."""
    options = {
        "cpu": "64", "memory": "64G", "advertise": ADDRESS, "peer-port": str(free_port()), "dns-upstream": above.said(),
        "mesh-subnet": SUBNET,
    }  # fmt: skip
    node = Node(name="named", options=options)
    try:
        node.start().load_busybox()
    except BaseException:
        node.destroy()
        raise
    yield node
    node.stop()


@pytest.fixture
async def client(named: Node) -> AsyncIterator[Client]:
    async with Client(named.address, named.token) as client:
        yield client


def ask(node: Node, name: str, type_: str = "A") -> tuple[str, list[str]]:
    """Without the time that a process takes."""
    said = dns.query.udp(dns.message.make_query(name, type_), "127.0.0.1", port=node.dns_port, timeout=5)
    return dns.rcode.to_text(said.rcode()), [str(record) for records in said.answer for record in records]


@pytest.mark.parametrize(
    "how", [[], ["+tcp"], ["+bufsize=512"], ["+noedns"], ["+tcp", "+keepopen", "+dnssec"]]
)
async def test_dig_gets_every_record_of_a_task_by_udp_and_tcp(
    named: Node, client: Client, how: list[str]
) -> None:
    task = await running(client, "sleep", "1000", name="served", network="host", port=8123)
    dug = dig(named, f"{task}.mill", "A", *how)
    assert (dug.status, dug.answers) == ("NOERROR", [f"{task}.mill. A {ADDRESS}"])
    assert "flags: qr aa rd ra" in dug.text
    assert ("udp: 1232" in dug.text) == ("+noedns" not in how)
    assert ("(TCP)" in dug.text) == ("+tcp" in how)
    service = dig(named, f"_task._tcp.{task}.mill", "SRV", *how)
    assert service.answers == [f"_task._tcp.{task}.mill. SRV 0 0 8123 {task}.mill."]
    assert re.search(rf"ADDITIONAL SECTION:\n{task}\.mill\.\s+1\s+IN\s+A\s+{ADDRESS}", service.text)
    for type_ in ("AAAA", "TXT"):
        empty = dig(named, f"{task}.mill", type_, *how)
        assert (empty.status, empty.answers) == ("NOERROR", [])
        assert "ns.mill. hostmaster.mill. 1 1 1 1 1" in empty.text
    assert dig(named, f"{task}.mill", "ANY", "+notcp", *how).answers == [f'{task}.mill. HINFO "RFC8482" ""']
    assert dig(named, f"a.{task}.mill", *how).status == "NXDOMAIN"
    assert dig(named, f"{task}x.mill", *how).status == "NXDOMAIN"


async def test_the_case_of_a_question_comes_back(named: Node, client: Client) -> None:
    task = await running(client, "sleep", "1000", name="cased", network="host")
    mixed = "".join(char.upper() if at % 2 else char for at, char in enumerate(f"{task}.mill"))
    assert dig(named, mixed).answers == [f"{mixed}. A {ADDRESS}"]


async def test_a_task_without_a_network_has_a_name_and_no_address(named: Node, client: Client) -> None:
    task = await running(client, "sleep", "1000", network="none")
    for name, type_ in ((f"{task}.mill", "A"), (f"_task._tcp.{task}.mill", "SRV")):
        dug = dig(named, name, type_)
        assert (dug.status, dug.answers) == ("NOERROR", [])


async def test_a_name_answers_from_the_201_until_the_end_and_not_a_moment_longer(
    named: Node, client: Client
) -> None:
    """The very next datagram after each answer of the API."""
    for _ in range(20):
        task = await spawn(client, "sleep", "1000", network="host")
        assert ask(named, f"{task}.mill") == ("NOERROR", [ADDRESS])
        await client.kill(task, grace=0)
        await end_of(client, task)
        assert ask(named, f"{task}.mill") == ("NXDOMAIN", [])
    assert dig(named, f"{task}.mill").status == "NXDOMAIN"


async def test_names_outlive_milld(named: Node, client: Client) -> None:
    task = await running(client, "sleep", "1000", network="host")
    for how in ("terminate", "kill9"):
        await trio.to_thread.run_sync(named.restart, how)
        assert ask(named, f"{task}.mill") == ("NOERROR", [ADDRESS])


def test_names_of_others_come_from_upstream(named: Node, above: Resolver) -> None:
    assert dig(named, "www.example.com").answers == ["www.example.com. A 203.0.113.7"]
    asked = len(above.asked)
    assert dig(named, "WWW.example.com", "+tcp").answers == ["WWW.example.com. A 203.0.113.7"]
    assert len(above.asked) == asked
    assert dig(named, "none.example.com").status == "NXDOMAIN"
    assert dig(named, "-x", "203.0.113.9").answers == ["9.113.0.203.in-addr.arpa. PTR now.example.com."]
    assert not [name for _, name, _ in above.asked if name.lower().endswith("mill.")]


def test_an_answer_too_long_for_a_datagram_is_asked_again_by_tcp(named: Node) -> None:
    dug = dig(named, "big.example.com", "TXT", "+bufsize=4096")
    assert "Truncated, retrying in TCP mode" in dug.text
    assert len(dug.answers) == 20
    assert "flags: qr tc" in dig(named, "big.example.com", "TXT", "+ignore").text


def test_what_was_answered_is_on_the_page_of_metrics(named: Node) -> None:
    def page() -> Scrape:
        answer = named.api("GET", "/v1/metrics")
        return Scrape.parse(answer.text, answer.headers["content-type"])

    asked = [
        ("no-such-task.mill", "mill", "nxdomain"),
        ("fresh-name.example.com", "upstream", "nxdomain"),
        ("fresh-name.example.com", "cache", "nxdomain"),
    ]
    before = page()
    for name, _, _ in asked:
        ask(named, name)
    after = page()
    for _, source, rcode in asked:
        labels = {"source": source, "rcode": rcode}
        grown = [one.value("mill_dns_queries_total", **labels) for one in (before, after)]
        assert grown[1] - grown[0] == 1, labels
    timed = "mill_dns_upstream_duration_seconds_count"
    assert after.value(timed) - before.value(timed) == 1
    assert after.by("mill_dns_upstream_failures_total", "reason") == {}
    assert after.value("mill_published_connections") == 0


@pytest.mark.parametrize(("words", "status"), [
    (["version.bind", "TXT", "CH"], "REFUSED"), (["+opcode=status", "web.mill"], "NOTIMP"),
    (["+edns=1", "+noednsneg", "web.mill"], "BADVERS"), (["mill", "AXFR", "+onesoa"], "REFUSED"),
])  # fmt: skip
def test_what_is_not_served_is_refused(named: Node, words: list[str], status: str) -> None:
    if "AXFR" in words:
        done = subprocess.run(
            ["dig", "@127.0.0.1", "-p", str(named.dns_port), *words], check=False, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        assert "Transfer failed" in done.stdout
    else:
        assert dig(named, *words).status == status


def test_the_hosts_resolv_conf_is_asked_when_nobody_said_otherwise(make_node: MakeNode) -> None:
    """Whatever this host's resolver says, or that there is none: an answer comes before `dig` gives up."""
    node = make_node(busybox=False)
    assert dig(node, "www.example.invalid").status in {"NXDOMAIN", "SERVFAIL", "REFUSED"}


def test_an_upstream_that_is_milld_itself_is_one_line() -> None:
    port = free_port()
    folder = tempfile.TemporaryDirectory(prefix="mill-", dir="/tmp")  # short: a socket's path has 108 bytes
    command = [*MILLD, f"--data-dir={folder.name}/d", "--containerd=embedded", f"--listen=127.0.0.1:{free_port()}",
               f"--dns-listen=127.0.0.1:{port}", f"--dns-upstream=127.0.0.1:{port}"]  # fmt: skip
    with folder:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert f"milld: --dns-upstream 127.0.0.1:{port} is Mill's own DNS" in done.stderr
    assert "Traceback" not in done.stderr
