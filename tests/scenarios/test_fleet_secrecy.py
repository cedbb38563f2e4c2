"""What three real nodes say to each other cannot be read on the link, and who is none of them moves nothing there."""

import os
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import httpx
import pytest

from mill.cluster.messages import Claim, Gossip, Packet
from mill.cluster.values import MemberState, NodeId
from mill.cluster.wire import encode
from mill.security.certificates import ANY_NODE
from mill.security.channel import Channels
from mill.security.keys import Keyring, Secret
from mill.security.secret_file import read
from tests.node import TERMINAL
from tests.scenarios.fleet import SUBNET, Placed, everywhere, fleet_on, told_of
from tests.scenarios.mesh import fetch
from tests.scenarios.wiretap import UDP, Wire, packets, send_again, send_as_oneself, tapped
from tests.world import Host, hosts

PORT = 4401
SMALL: dict[str, Any] = {"image": "busybox", "memory": "16M", "cpu": 0.05, "grace": 0.2}
SETTLED_S = 1.0
"""What a datagram does it does at once, and others have heard of it."""


@attrs.frozen
class Scene:
    """Three nodes, and on the same link a host that has no secret."""

    nodes: list[Placed]
    outsider: Host


@pytest.fixture(scope="module")
def scene(busybox_archive: Path) -> Iterator[Scene]:
    with (
        hosts(*(f"{SUBNET}.{number}/24" for number in (1, 2, 3, 9))) as made,
        fleet_on(made[:3], busybox_archive) as placed,
    ):
        yield Scene(placed, made[3])


# -- what can be read -----------------------------------------------------------------------------------------------


def test_nothing_that_nodes_say_to_each_other_can_be_read_on_their_links(scene: Scene) -> None:
    """A marker in names, environments, labels, logs and a template, told through all and read back through others."""
    three, marker = scene.nodes, f"mark{secrets.token_hex(6)}"
    with tapped(*(one.host for one in three), scene.outsider) as wire:
        template = {**SMALL, "env": {"WORD": marker}, "args": ["sh", "-c", "echo $WORD"]}
        put = three[1].api("PUT", f"/v1/templates/t-{marker}", json=template)
        assert put.status_code < 300, put.text
        everywhere(three, lambda it: f"t-{marker}" in it.api("GET", "/v1/templates").text, 10)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda it: told_and_read_back(it, three, marker), three))
        everywhere(three, lambda it: it.api("GET", "/v1/tasks?all=true").text.count(f'"{marker}-') >= 9, 10)
        assert wire.holds(marker) == []
        ring = three[0].node.data_dir / "cluster.secret"
        for word in (three[0].node.token, ring.read_text().strip(), "HTTP/1.1", "/peer/", "busybox", "sleep"):
            assert wire.holds(word) == [], word
        found = {(packet.protocol, packet.way[3]) for packet in wire.packets()}
        assert {(6, PORT), (UDP, PORT)} <= found, "nothing was captured that could have held it"
        control(wire, three, marker)
        assert wire.lost() == 0
    for one in three:
        assert marker in one.api("GET", "/v1/tasks?all=true").text
    three[0].api("DELETE", f"/v1/templates/t-{marker}")


def told_and_read_back(one: Placed, three: list[Placed], marker: str) -> None:
    """Three tasks through *one*, which say the marker, and end after it was read elsewhere."""
    by_name = {it.name: it for it in three}
    body = {
        **SMALL, "name": marker, "env": {"WORD": marker}, "labels": {"of": f"{one.name}-{marker}"},
        "args": ["sh", "-c", "echo $WORD; sleep 2; echo ${WORD}2"],
    }  # fmt: skip
    spawned = []
    for number in range(3):
        asked = {"task": f"t-{marker}", "name": marker} if number == 2 else body
        answer = one.api("POST", "/v1/tasks/spawn", json=asked)
        assert answer.status_code == 201, answer.text
        owner = by_name[answer.json()["node"]]
        reader = next(it for it in three if it is not owner and it is not one)
        spawned.append((reader, answer.json()["id"]))
    for reader, task_id in spawned:
        read_back(reader, task_id, marker)


def read_back(reader: Placed, task_id: str, marker: str) -> None:
    for path in (f"/v1/logs/{task_id}?follow=true", f"/v1/tasks/{task_id}"):
        assert marker in got(reader, path)
    assert reader.host.do(told_of, reader, task_id)[-1] in TERMINAL


def got(one: Placed, path: str) -> str:
    """Where the owner is too busy to say in time that the task is its own, it is asked again, as `mill` does."""
    deadline = time.monotonic() + 20
    while (answer := one.api("GET", path)).status_code == 503:
        assert time.monotonic() < deadline, answer.text
    assert answer.status_code == 200, answer.text
    return answer.text


def control(wire: Wire, three: list[Placed], marker: str) -> None:
    """The same word in clear on the same links is found: in a datagram, in a stream where no segment has the whole of it, and
    where tasks say it to each other, whose traffic is as private as the link.
    """
    a, b, c = three
    a.host.do(by_tcp, b.host, f"{SUBNET}.2", marker.encode())
    shown(wire, lambda: [where for where in wire.holds(marker) if "7777" in where])
    assert "frame" not in wire.holds(marker)
    a.host.do(by_udp, f"{SUBNET}.2", marker.encode())
    shown(wire, lambda: "frame" in wire.holds(marker))
    page = f"mkdir /w && echo said-{marker} > /w/index.html && exec httpd -f -p 8080 -h /w"
    server = b.running(page, network="mesh")
    client = c.spawn(fetch(f"{server}.mill:8080"), network="mesh")
    assert c.get(f"/v1/tasks/{client}", wait="terminal", timeout=60)["exit_code"] == 0
    b.api("DELETE", f"/v1/tasks/{server}")
    everywhere(three, lambda it: it.get("/v1/tasks")["tasks"] == [], 10)
    shown(
        wire,
        lambda: any(
            f"said-{marker}".encode() in packet.payload for packet in wire.packets() if packet.carried
        ),
    )


def by_udp(to: str, word: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(word, (to, 7777))


def by_tcp(there: Host, to: str, word: bytes) -> None:
    with (
        there.do(socket.create_server, (to, 7777)) as server,
        socket.create_connection((to, 7777)) as sock,
    ):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        taken, _ = server.accept()
        with taken:
            for half in (word[:7], word[7:]):
                sock.sendall(half)
                assert taken.recv(100) == half


def shown(wire: Wire, true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline, f"not found in {len(wire.frames)} frames"
        time.sleep(0.05)


# -- who is refused -------------------------------------------------------------------------------------------------


def as_it_is(scene: Scene) -> dict[str, Any]:
    """Members, leader and tasks, as each node sees them."""
    return {
        one.name: (
            one.nodes(),
            one.get("/v1/status")["leader"],
            {record["id"]: record["status"] for record in one.get("/v1/tasks")["tasks"]},
        )
        for one in scene.nodes
    }


@pytest.fixture
def unmoved(scene: Scene) -> Iterator[None]:
    """Nothing of it is other than before, and nobody stumbled."""
    everywhere(scene.nodes, lambda it: set(it.nodes().values()) == {"alive"}, 10)
    before = as_it_is(scene)
    yield
    time.sleep(SETTLED_S)
    assert as_it_is(scene) == before
    stumbles = [line for one in scene.nodes for line in one.log().splitlines() if '"exception"' in line]
    print("\n".join(stumbles))
    assert not stumbles


def lines(one: Placed, why: str) -> int:
    return sum(why in line for line in one.log().splitlines())


def id_of(one: Placed) -> NodeId:
    return NodeId(UUID(one.node.node_id).hex)


def channels(one: Placed, node_id: str | None = None, ring: Keyring | None = None) -> Channels:
    """As a node has them that knows the secret of *one*'s cluster, or *ring*."""
    given = ring or read(one.node.data_dir / "cluster.secret")
    assert given is not None
    return Channels(given, node_id or id_of(one), (), time.time)


def old(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def unverified(context: ssl.SSLContext) -> ssl.SSLContext:
    """Whoever answers will do: it is the other side that is to refuse."""
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


Contexts = Callable[[Placed], ssl.SSLContext]
KNOCKS: dict[str, tuple[Contexts, str]] = {
    "tls 1.2": (lambda c: old(channels(c).peer_client()), "unsupported protocol"),
    "no certificate": (
        lambda c: ssl.create_default_context(cadata=channels(c).trusted_pem),
        "did not return a certificate",
    ),
    "foreign authority": (
        lambda c: unverified(channels(c, ring=Keyring(Secret(os.urandom(32)))).peer_client()),
        "certificate verify failed",
    ),
    "another node's": (lambda c: channels(c).peer_client(), "it speaks as node"),
}


@pytest.mark.parametrize("knock", KNOCKS)
@pytest.mark.usefixtures("unmoved")
def test_who_knocks_with_the_wrong_papers_is_one_line_and_moves_nobody(scene: Scene, knock: str) -> None:
    """The last one has the certificate of n3, and says that n2 leaves."""
    a, b, c = scene.nodes
    make_context, why = KNOCKS[knock]
    leaves = Claim(id_of(b), 1, 1000, MemberState.LEFT)
    left = encode(Packet(id_of(b), 1, 1000, Gossip(), (leaves,)))
    for _ in range(3):
        status = scene.outsider.do(post, a, make_context(c), left)
        assert status == (403 if knock == "another node's" else None)
    everywhere([a], lambda it: lines(it, why) > 0, 5)
    assert lines(a, why) == 1
    assert f"{SUBNET}.9" in next(line for line in a.log().splitlines() if why in line)


def post(to: Placed, context: ssl.SSLContext, packet: bytes) -> int | None:
    """The status of the answer; None where there is none."""
    with httpx.Client(verify=context, trust_env=False, timeout=10) as http, suppress(httpx.TransportError):
        asked = httpx.Request(
            "POST", f"https://{to.address}/peer/packet", content=packet, extensions={"sni_hostname": ANY_NODE}
        )
        return http.send(asked).status_code
    return None


@pytest.mark.usefixtures("unmoved")
def test_noise_and_plain_http_are_one_line_each(scene: Scene) -> None:
    a, address = scene.nodes[0], (f"{SUBNET}.1", PORT)
    whys = ("it is none of Mill's", "it is forged", "it speaks without TLS")
    with tapped(a.host) as wire:
        shown(wire, lambda: gossip(wire.frames, to=address[0]))
        sealed = bytearray(next(packets(gossip(wire.frames, to=address[0])[0])).payload)
    sealed[40] ^= 1  # its counter
    for _ in range(3):
        for noise in (b"x" * 20, bytes(sealed)):
            scene.outsider.do(by_udp_to, address, noise)
        assert scene.outsider.do(httpx.get, f"http://{a.address}/", trust_env=False).status_code == 400
    everywhere([a], lambda it: all(lines(it, why) for why in whys), 5)
    assert [lines(a, why) for why in whys] == [1, 1, 1]


def by_udp_to(address: tuple[str, int], word: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(word, address)


def gossip(frames: list[bytes], to: str | None = None) -> list[bytes]:
    """Frames with a datagram to the peers' port, of *to* if it is given."""
    found = []
    for frame in frames:
        datagram = next(packets(frame), None)
        if datagram is None or datagram.protocol != UDP or datagram.way[3] != PORT:
            continue
        if to in {None, datagram.way[2]}:
            found.append(frame)
    return found


def test_what_was_said_once_has_no_effect_when_it_is_said_again(scene: Scene) -> None:
    """That n3 leaves, among others: it did, and is back."""
    a, b, c = scene.nodes
    with tapped(scene.nodes[0].host, scene.nodes[1].host) as wire:
        a.mill("nodes", "drain", "n3", "--wait", "--timeout", "10s")
        c.terminate()
        everywhere([a, b], lambda it: it.nodes()["n3"] == "left", 5)
        recorded = gossip(wire.frames)
    of_c = [frame for frame in recorded if next(packets(frame)).way[0] == f"{SUBNET}.3"]
    assert len(of_c) > 5
    c.start()
    b.mill("nodes", "undrain", "n3")
    everywhere(scene.nodes, lambda it: it.nodes()["n3"] == "alive", 15)
    kept = c.running()
    everywhere(scene.nodes, lambda it: (it.task(kept) or {}).get("status") == "running", 10)
    before = as_it_is(scene)
    for _ in range(3):
        scene.outsider.do(send_again, recorded)
        scene.outsider.do(send_as_oneself, [next(packets(frame)) for frame in recorded])
    why = "somebody replays it"
    everywhere([a, b], lambda it: lines(it, why) > 0, 5)
    time.sleep(SETTLED_S)
    assert as_it_is(scene) == before
    for one in (a, b):
        named = [line for line in one.log().splitlines() if why in line]
        assert len(named) == len(set(named)) <= 2, named
        assert any("n3" in line for line in named)
    print(f"{len(recorded)} datagrams said again six times, {len(of_c)} of n3")
    b.terminate()
    b.start()  # it does not remember what it has opened before
    everywhere(scene.nodes, lambda it: set(it.nodes().values()) == {"alive"}, 15)
    for _ in range(3):
        scene.outsider.do(send_again, recorded)
    time.sleep(SETTLED_S)
    assert as_it_is(scene) == before
