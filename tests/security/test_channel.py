"""TLS contexts in real handshakes: who is let in, who is not, and what is spoken."""

import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from mill.security.certificates import RENEW_AFTER, node_name
from mill.security.channel import MOST_CONTEXTS, Channels, peer_of
from mill.security.keys import Keyring, Secret

A, B = "aa" * 16, "bb" * 16
OLD, NEW, FOREIGN = (Secret(bytes([number]) * 32) for number in range(3))
HERE = "127.0.0.1"

Make = Callable[..., Channels]


@pytest.fixture
def clock() -> list[float]:
    """What the certificates are made by; OpenSSL checks them by the machine's."""
    return [time.time()]


@pytest.fixture
def make(clock: list[float]) -> Make:
    def channels(node_id: str = A, ring: Keyring | None = None, *names: str) -> Channels:
        return Channels(ring or Keyring(OLD), node_id, names, lambda: clock[0])

    return channels


class Side:
    """One end of a connection: what it saw of the other, or why there is no connection."""

    def __init__(self, stream: trio.SSLStream[trio.abc.Stream]) -> None:
        self.stream = stream
        self.certificate: dict[str, object] = {}
        self.fault = ""

    async def talk(self) -> None:
        """A word each way: under TLS 1.3 a client learns with the first answer that it was refused."""
        try:
            if not self.stream.server_side:
                await self.stream.send_all(b"ping")
                assert await self.stream.receive_some() == b"pong"
            else:
                assert await self.stream.receive_some() == b"ping"
                await self.stream.send_all(b"pong")
            self.certificate = self.stream.getpeercert() or {}
        except trio.BrokenResourceError as error:
            self.fault = str(error.__cause__)
            await self.stream.transport_stream.aclose()


async def talk(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[Side, Side]:
    left, right = trio.testing.memory_stream_pair()
    sides = (
        Side(trio.SSLStream(left, server, server_side=True)),
        Side(trio.SSLStream(right, client, server_hostname=name)),
    )
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for side in sides:
                nursery.start_soon(side.talk)
    return sides


def trusting(channels: Channels, **options: object) -> ssl.SSLContext:
    """A user's client: it has the cluster's PEM and no certificate."""
    context = ssl.create_default_context(cadata=channels.trusted_pem)
    for name, value in options.items():
        setattr(context, name, value)
    return context


# -- between nodes --------------------------------------------------------------------------------------------------


async def test_two_nodes_of_one_secret_know_each_other(make: Make) -> None:
    server, client = await talk(make(A).peer_server(HERE), make(B).peer_client(), node_name(A))
    assert (server.fault, client.fault) == ("", "")
    assert peer_of(server.certificate) == B
    assert peer_of(client.certificate) == A
    assert client.stream.version() == "TLSv1.3"


async def test_a_joiner_may_ask_for_any_node(make: Make) -> None:
    _, client = await talk(make(A).peer_server(HERE), make(B).peer_client(), node_name(None))
    assert peer_of(client.certificate) == A


async def test_another_node_than_the_one_asked_for_is_refused_before_a_word_is_said(make: Make) -> None:
    server, client = await talk(make(A).peer_server(HERE), make(B).peer_client(), node_name("cc" * 16))
    assert "Hostname mismatch" in client.fault
    assert server.fault


@pytest.mark.parametrize("foreign_side", ["server", "client"])
async def test_a_node_of_another_secret_is_refused_by_both(make: Make, foreign_side: str) -> None:
    rings = {"server": Keyring(OLD), "client": Keyring(OLD), foreign_side: Keyring(FOREIGN)}
    server, client = await talk(
        make(A, rings["server"]).peer_server(HERE), make(B, rings["client"]).peer_client(), node_name(A)
    )
    assert "CERTIFICATE_VERIFY_FAILED" in client.fault
    assert server.fault


async def test_who_shows_no_certificate_is_refused(make: Make) -> None:
    channels = make(A)
    server, client = await talk(channels.peer_server(HERE), trusting(channels), node_name(A))
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in server.fault
    assert client.fault


@pytest.mark.parametrize("side", ["server", "client"])
async def test_tls_1_2_is_refused(make: Make, side: str) -> None:
    server, client = make(A).peer_server(HERE), make(B).peer_client()
    older = server if side == "server" else client
    older.minimum_version = older.maximum_version = ssl.TLSVersion.TLSv1_2
    for one in await talk(server, client, node_name(A)):
        assert one.fault


async def test_while_the_secret_changes_every_two_nodes_understand_each_other(make: Make) -> None:
    both = Keyring(OLD).install(NEW)
    new = both.use(NEW.key_id)
    for rings in [(Keyring(OLD), both), (both, both), (both, new), (new, new), (new, new.remove(OLD.key_id))]:
        for one, other in (rings, rings[::-1]):
            sides = await talk(make(A, one).peer_server(HERE), make(B, other).peer_client(), node_name(A))
            assert [side.fault for side in sides] == ["", ""]
    sides = await talk(
        make(A, new.remove(OLD.key_id)).peer_server(HERE), make(B, Keyring(OLD)).peer_client(), node_name(A)
    )
    assert all(side.fault for side in sides)


async def test_a_ring_that_changes_holds_from_the_next_connection_on(make: Make) -> None:
    server, client = make(A), make(B)
    await talk(server.peer_server(HERE), client.peer_client(), node_name(A))
    server.use(Keyring(NEW))
    assert all(
        side.fault for side in await talk(server.peer_server(HERE), client.peer_client(), node_name(A))
    )
    client.use(Keyring(NEW))
    sides = await talk(server.peer_server(HERE), client.peer_client(), node_name(A))
    assert [side.fault for side in sides] == ["", ""]


# -- the API's side -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "node-7"])
async def test_a_user_with_the_clusters_pem_is_served(make: Make, name: str) -> None:
    channels = make(A, None, "localhost", "node-7")
    server, client = await talk(channels.api(HERE), trusting(channels), name)
    assert (server.fault, client.fault) == ("", "")
    assert client.stream.version() == "TLSv1.3"


async def test_the_certificate_is_for_the_address_that_a_user_came_to(make: Make) -> None:
    channels = make(A)
    for address, came_to in [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.8", "192.0.2.8"),
        ("fe80::1%eth0", "fe80::1"),
    ]:
        sides = await talk(channels.api(address), trusting(channels), came_to)
        assert [side.fault for side in sides] == ["", ""]
    _, client = await talk(channels.api("192.0.2.7"), trusting(channels), "192.0.2.8")
    assert "IP address mismatch" in client.fault


async def test_a_user_of_another_cluster_does_not_trust_it(make: Make) -> None:
    _, client = await talk(make(A).api(HERE), trusting(make(B, Keyring(FOREIGN))), HERE)
    assert "CERTIFICATE_VERIFY_FAILED" in client.fault


async def test_the_api_speaks_nothing_older_than_tls_1_3(make: Make) -> None:
    channels = make(A)
    server, client = await talk(
        channels.api(HERE), trusting(channels, maximum_version=ssl.TLSVersion.TLSv1_2), HERE
    )
    assert "UNSUPPORTED_PROTOCOL" in server.fault
    assert client.fault


async def test_no_session_is_resumed(make: Make) -> None:
    channels = make(A)
    _, client = await talk(channels.api(HERE), trusting(channels), HERE)
    assert client.stream.session is None or not client.stream.session.has_ticket


# -- what is kept ---------------------------------------------------------------------------------------------------


async def test_a_certificate_is_kept_until_it_is_to_be_renewed(make: Make, clock: list[float]) -> None:
    clock[0] -= RENEW_AFTER.total_seconds()
    channels = make(A)
    first = channels.api(HERE)
    clock[0] += RENEW_AFTER.total_seconds() - 1
    assert channels.api(HERE) is first
    clock[0] += 2
    renewed = channels.api(HERE)
    assert renewed is not first
    sides = await talk(renewed, trusting(channels), HERE)
    assert [side.fault for side in sides] == ["", ""]


def test_a_clock_that_was_set_back_makes_a_new_one(make: Make, clock: list[float]) -> None:
    channels = make(A)
    first = channels.api(HERE)
    clock[0] -= 3600
    assert channels.api(HERE) is not first


def test_contexts_are_bounded_and_those_in_use_stay(make: Make) -> None:
    channels = make(A)
    used = channels.peer_client()
    for number in range(MOST_CONTEXTS * 2):
        channels.api(f"127.0.{number // 256}.{number % 256}")
        assert channels.peer_client() is used
    assert len(channels._contexts) == MOST_CONTEXTS


def test_no_descriptor_and_no_file_is_left(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    channels = make(A)
    for side in (channels.peer_client(), channels.peer_server(HERE), channels.api(HERE)):
        assert side is not None
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_that_names_no_node_is_no_peer() -> None:
    for odd in (
        None,
        {},
        {"subjectAltName": (("DNS", "example.com"),)},
        {"subjectAltName": (("URI", node_name(A)),)},
    ):
        with pytest.raises(ValueError, match="names no node"):
            peer_of(odd)
