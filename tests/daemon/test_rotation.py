"""A change of the secret among nodes that speak over real TLS: seen through, refused, stopped in the midst, gone on with elsewhere."""

import json
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import trio
from quart import abort, request

from mill.api import peer_secret, server
from mill.api.peer import make_peer_app
from mill.cluster.claims import NOBODY
from mill.cluster.outcomes import Led
from mill.cluster.values import Address, Member, MemberState, NodeId, Peer
from mill.daemon import cluster, peers, rotation
from mill.daemon.cluster import hold_to
from mill.daemon.peers import Peers, Stranger, Unreachable
from mill.daemon.ring import Ring
from mill.daemon.rotation import Rotation
from mill.errors import Conflict, Unavailable
from mill.security.channel import Channels, PeerTls
from mill.security.keys import Keyring, Secret
from mill.security.rotation import Step
from mill.security.secret_file import read, write

OLD = Secret(b"1" * 32)
IDS = [NodeId(letter * 32) for letter in "abc"]
NAMES = dict(zip(IDS, ("n1", "n2", "n3"), strict=True))


@attrs.define(eq=False)
class Node:
    """One node of three, with the parts that a change of the secret is about; *others* has all of them."""

    id: NodeId
    ring: Ring
    others: "dict[NodeId, Node]"
    port: int = 0
    states: dict[NodeId, MemberState] = attrs.field(factory=lambda: dict.fromkeys(IDS, MemberState.ALIVE))
    partial: bool = False
    led: Led | None = None
    spoken: list[Keyring] = attrs.field(factory=list)
    deaf_to: Step | None = None
    is_of_old: bool = False
    peers: Peers = attrs.field(init=False)
    rotation: Rotation = attrs.field(init=False)

    def use(self, ring: Keyring) -> None:
        """As gossip."""
        self.spoken.append(ring)

    @property
    def members(self) -> dict[NodeId, Member]:
        def member(node: NodeId) -> Member:
            peer = Peer(node, 1, NAMES.get(node, "n4"), "127.0.0.1", self.others[node].port)
            return Member(peer, self.states[node], 1, 0, 0.0)

        return {node: member(node) for node in self.states}

    def address_of(self, node: NodeId) -> Address:
        return Address("127.0.0.1", self.others[node].port)

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        app = make_peer_app(lambda *_: None)
        sock = server.bind("127.0.0.1:0")
        self.port = sock.getsockname()[1]

        @app.before_request
        async def misbehave() -> None:
            if self.is_of_old and request.path.startswith("/peer/secret"):
                abort(404)
            if self.deaf_to is not None and request.path == "/peer/secret" and request.method == "POST":
                said = await request.get_json()
                if said["step"] == self.deaf_to:
                    await trio.sleep_forever()

        @app.get("/peer/follow")
        async def follow() -> AsyncIterator[bytes]:
            async def lines() -> AsyncIterator[bytes]:
                yield b"first\n"
                await trio.sleep_forever()

            return lines()

        async with trio.open_nursery() as nursery:
            self.peers = await nursery.start(peers.serve, self.ring.channels, self.address_of)
            news = SimpleNamespace(name=NAMES.__getitem__)
            fake: Any = SimpleNamespace(engine=self, me=self.id, news=news, peers=self.peers)
            self.rotation = Rotation(self.ring, fake, NAMES[self.id])
            app.register_blueprint(peer_secret.routes(self.rotation))
            tls = PeerTls(self.ring.channels)
            end_those = await nursery.start(partial(server.serve, app, sock, server.Load(), tls))
            hold_to(self.ring, cast("Any", self), self.peers, end_those)
            task_status.started()

    def on_disk(self) -> Keyring | None:
        return read(self.ring.path)


@pytest.fixture
async def three(tmp_path: Path, nursery: trio.Nursery) -> list[Node]:
    all_of_them: dict[NodeId, Node] = {}
    for node_id in IDS:
        (folder := tmp_path / node_id).mkdir()
        write(folder / "cluster.secret", Keyring(OLD))
        channels = Channels(Keyring(OLD), node_id, (), time.time)
        all_of_them[node_id] = Node(node_id, Ring(folder, Keyring(OLD), channels), all_of_them)
        all_of_them[node_id].led = Led(IDS[0], full=node_id == IDS[0], mandate=NOBODY)
        await nursery.start(all_of_them[node_id].serve)
    return list(all_of_them.values())


def of_one_secret(three: list[Node]) -> Secret:
    """Which all have in use, on disk, and in what they say; and no other."""
    secret = three[0].ring.now.used
    for node in three:
        assert list(node.ring.now) == [secret]
        assert node.on_disk() == node.ring.now == node.spoken[-1]
        pem = (node.ring.path.parent / "ca.pem").read_text()
        assert pem == node.ring.channels.trusted_pem == three[0].ring.channels.trusted_pem
    return secret


def untouched(three: list[Node]) -> bool:
    return all(node.ring.now == node.on_disk() == Keyring(OLD) and not node.spoken for node in three)


async def test_all_have_the_new_secret_and_the_old_one_is_good_for_nothing(three: list[Node]) -> None:
    rotated = await three[1].rotation.rotate()
    secret = of_one_secret(three)
    assert (rotated.key_id, rotated.nodes) == (secret.key_id.hex(), ("n1", "n2", "n3"))
    assert secret != OLD
    for node in three:
        assert [ring.used == secret for ring in node.spoken] == [False, True, True]
    again = await three[0].rotation.rotate()
    assert again.key_id == of_one_secret(three).key_id.hex() != rotated.key_id


async def test_connections_by_the_old_one_end_and_none_is_made(
    three: list[Node], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a node that had it, and takes no part; and of one that does."""
    monkeypatch.setattr(cluster, "DISTRUSTED_S", 0.5)
    channels = Channels(Keyring(OLD), NodeId("d" * 32), (), time.time)
    stranger: Peers = await nursery.start(peers.serve, channels, three[0].address_of)
    for asking in (stranger, three[1].peers):
        async with asking.open(IDS[0], "GET", "/peer/follow") as answer:
            chunks = answer.chunks()
            assert await anext(chunks) == b"first\n"
            await three[0].rotation.rotate()
            with pytest.raises(Unreachable), trio.fail_after(5):
                await anext(chunks)
    with pytest.raises(Stranger, match="another secret"):
        async with stranger.open(IDS[0], "GET", "/peer/secret"):
            pass


async def test_a_connection_to_who_still_has_the_old_one_ends_too(
    three: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its other side would keep it."""
    monkeypatch.setattr(cluster, "DISTRUSTED_S", 0.5)
    for node in three:
        node.states[IDS[2]] = MemberState.LEFT
    async with three[0].peers.open(IDS[2], "GET", "/peer/follow") as answer:
        chunks = answer.chunks()
        assert await anext(chunks) == b"first\n"
        await three[0].rotation.rotate()
        with pytest.raises(Unreachable), trio.fail_after(5):
            await anext(chunks)


@pytest.mark.parametrize("state", [MemberState.DOWN, MemberState.AWAY, MemberState.SUSPECT])
async def test_it_is_refused_while_a_node_is_not_there(three: list[Node], state: MemberState) -> None:
    three[0].states[IDS[2]] = state
    with pytest.raises(Conflict, match=f"n3 is {state.name.lower()}, .* wait until it is back") as caught:
        await three[0].rotation.rotate()
    assert ("'mill nodes forget n3'" in str(caught.value)) is not state.reachable
    assert untouched(three)


async def test_a_node_that_has_left_has_no_part_in_it(three: list[Node]) -> None:
    for node in three:
        node.states[IDS[2]] = MemberState.LEFT
    assert (await three[0].rotation.rotate()).nodes == ("n1", "n2")
    assert three[2].on_disk() == Keyring(OLD)


@pytest.mark.parametrize(
    ("partial", "led"),
    [
        (True, Led(IDS[0], full=False, mandate=NOBODY)),
        (False, None),
        (False, Led(None, full=False, mandate=NOBODY)),
        (False, Led(IDS[1], full=False, mandate=NOBODY)),
    ],
    ids=["partial", "nothing known", "no leader", "degraded"],
)
async def test_it_is_refused_without_a_majority(three: list[Node], *, partial: bool, led: Led | None) -> None:
    three[1].partial, three[1].led = partial, led
    with pytest.raises(Unavailable, match="mill status"):
        await three[1].rotation.rotate()
    assert untouched(three)


async def test_it_is_refused_while_another_knows_of_more_nodes(three: list[Node]) -> None:
    three[0].states = dict.fromkeys(IDS[:2], MemberState.ALIVE)
    with pytest.raises(Unavailable, match="n2 knows of a node"):
        await three[0].rotation.rotate()
    assert untouched(three)


async def test_it_is_refused_by_a_node_that_cannot(three: list[Node]) -> None:
    three[2].is_of_old = True
    with pytest.raises(Conflict, match="n3: its Mill cannot change its secret: upgrade"):
        await three[0].rotation.rotate()
    assert untouched(three)


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("again", [0, 2])
async def test_where_a_node_falls_silent_it_stops_and_goes_on_when_it_is_asked_again(
    three: list[Node], step: Step, again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the same node, or through the one that was silent, which may not know the new secret yet."""
    monkeypatch.setattr(rotation, "STEP_S", 0.3)
    three[2].deaf_to = step
    with pytest.raises(Unavailable, match=f"stopped at the step {step} on n3.*again goes on") as caught:
        await three[0].rotation.rotate()
    begun = {secret for node in three for secret in node.ring.now} - {OLD}
    assert len(begun) == 1
    for one, other in ((one, other) for one in three for other in three):
        assert one.ring.now.used in list(other.ring.now)
    three[2].deaf_to = None
    rotated = await three[again].rotation.rotate()
    assert begun == {of_one_secret(three)}
    assert rotated.key_id == begun.pop().key_id.hex()
    assert not any(secret.key.hex() in str(caught.value) for node in three for secret in node.ring.now)


async def test_a_disk_that_takes_nothing_stops_it(three: list[Node]) -> None:
    in_the_way = three[1].ring.path.with_name("cluster.secret.new")
    in_the_way.mkdir()
    with pytest.raises(Unavailable, match=r"at the step install on n2: cannot write .*cluster\.secret"):
        await three[0].rotation.rotate()
    assert three[1].ring.now == Keyring(OLD)
    in_the_way.rmdir()
    await three[2].rotation.rotate()
    of_one_secret(three)


async def test_of_two_at_once_one_ends_and_all_have_its_secret(three: list[Node]) -> None:
    told: list[str] = []
    refused: list[str] = []

    async def change(node: Node) -> None:
        try:
            told.append((await node.rotation.rotate()).key_id)
        except (Conflict, Unavailable) as error:
            refused.append(str(error))

    async with trio.open_nursery() as nursery:
        for node in (three[0], three[0], three[1], three[2]):
            nursery.start_soon(change, node)
    assert of_one_secret(three).key_id.hex() in told
    whys = ("another change of the secret has begun", "changing the secret already")
    assert all(any(why in said for why in whys) for said in refused), refused


async def test_a_node_that_is_alone_changes_its_own(tmp_path: Path) -> None:
    channels = Channels(Keyring(OLD), IDS[0], (), time.time)
    ring = Ring(tmp_path, Keyring(OLD), channels)
    rotated = await Rotation(ring, None, "here").rotate()
    assert rotated.nodes == ("here",)
    assert read(ring.path) == ring.now
    assert [secret.key_id.hex() for secret in ring.now] == [rotated.key_id]
    assert (tmp_path / "ca.pem").read_text() == channels.trusted_pem


# -- what is told ---------------------------------------------------------------------------------------------------


async def test_no_answer_tells_a_secret(three: list[Node]) -> None:
    three[2].deaf_to = Step.USE
    with trio.move_on_after(1):
        await three[0].rotation.rotate()
    secrets = {secret.key.hex() for node in three for secret in node.ring.now}
    assert len(secrets) == 2
    async with three[0].peers.open(IDS[1], "GET", "/peer/secret") as answer:
        said = (await answer.read()).decode()
    assert three[1].ring.now.used.key_id.hex() in said
    assert not any(secret in said for secret in secrets)


@pytest.mark.parametrize("change", [{"secret": OLD.text[:-1]}, {"key_id": "x"}, {"step": "steal"}])
async def test_what_is_no_order_is_refused_without_being_repeated(
    three: list[Node], change: dict[str, str]
) -> None:
    body = {"step": "install", "key_id": "00", "secret": OLD.text, **change}
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    async with three[0].peers.open(
        IDS[1], "POST", "/peer/secret", headers=headers, content=content
    ) as answer:
        said = (await answer.read()).decode()
    assert answer.status == 400
    assert OLD.key.hex()[:16] not in said
