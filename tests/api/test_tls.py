"""The server over TLS on real sockets: users, other nodes, and those who do not speak it."""

import ssl
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import attrs
import httpx
import pytest
import trio
from quart import request
from quart_trio import QuartTrio

from mill.api import server, tls
from mill.client import Client
from mill.errors import ConnectionFailed, FieldError, MillError
from mill.security.certificates import node_name
from mill.security.channel import ApiTls, Channels, PeerTls
from mill.security.keys import Keyring, Secret
from tests.api.conftest import problem, until
from tests.api.endless import GET, STUCK, Endless

ME, PEER = "aa" * 16, "bb" * 16
RING, FOREIGN = Keyring(Secret(b"1" * 32)), Keyring(Secret(b"2" * 32))


def channels(node_id: str = ME, ring: Keyring = RING) -> Channels:
    return Channels(ring, node_id, (), time.time)


@attrs.frozen
class Served:
    port: int
    channels: Channels
    load: server.Load
    scope: trio.CancelScope
    ended: trio.Event

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def connect(self) -> trio.SSLStream[trio.SocketStream]:
        context = ssl.create_default_context(cadata=self.channels.trusted_pem)
        plain = await trio.open_tcp_stream("127.0.0.1", self.port)
        return trio.SSLStream(plain, context, server_hostname="127.0.0.1")


async def serve(
    app: QuartTrio, kind: type[ApiTls | PeerTls], *, task_status: trio.TaskStatus[Served]
) -> None:
    sock, load, own = server.bind("127.0.0.1:0"), server.Load(), channels()
    served = Served(sock.getsockname()[1], own, load, trio.CancelScope(), trio.Event())
    with served.scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(server.serve, app, sock, load, kind(own)))
            task_status.started(served)
    served.ended.set()


@pytest.fixture
def endless() -> Endless:
    return Endless()


@pytest.fixture
async def api(endless: Endless, nursery: trio.Nursery) -> AsyncIterator[Served]:
    served: Served = await nursery.start(serve, endless.app, ApiTls)
    yield served
    served.scope.cancel()
    with trio.fail_after(server.DRAIN_S + 5):
        await served.ended.wait()


@pytest.fixture
async def peers(nursery: trio.Nursery) -> Served:
    app = QuartTrio("peers", static_folder=None)

    @app.get("/who")
    async def who() -> str:
        return f"{request.scheme} {request.scope['state']['peer']}"

    served: Served = await nursery.start(serve, app, PeerTls)
    return served


async def ask(served: Served, client: Channels, node: str | None = ME) -> str:
    async with httpx.AsyncClient(verify=client.peer_client(), trust_env=False) as http:
        answer = await http.get(f"{served.url}/who", extensions={"sni_hostname": node_name(node)})
    return answer.text


# -- users ----------------------------------------------------------------------------------------------------------


async def test_a_connection_is_kept_for_further_requests(api: Served) -> None:
    context = ssl.create_default_context(cadata=api.channels.trusted_pem)
    async with httpx.AsyncClient(verify=context, trust_env=False) as http:
        for _ in range(3):
            assert (await http.get(api.url)).text == "hello"
        assert api.load.connections == 1


async def test_what_is_sent_in_clear_is_answered_with_what_to_do(api: Served) -> None:
    async with httpx.AsyncClient(verify=False, trust_env=False) as http:
        for method in ("GET", "POST"):
            answer = await http.request(method, f"http://127.0.0.1:{api.port}/", content=b"x" * 200_000)
            assert problem(answer) == (400, "needs-tls", None)
            assert "https://" in answer.json()["detail"]
    assert api.load.requests == 0


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x00\x05hello", b"\0" * 500, b"\x80\x2e\x01", b"\x16"])
async def test_noise_ends_its_connection_alone(api: Served, noise: bytes) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", api.port) as stream:
        await stream.send_all(noise)
        await stream.send_eof()
        with trio.fail_after(5):
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
    async with await api.connect() as fine:
        await fine.send_all(GET)
        assert (await fine.receive_some()).startswith(b"HTTP/1.1 200")


async def test_who_never_begins_its_handshake_is_dropped(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.2)
    for sent in (b"", b"\x16\x03\x01\x02\x00\x01"):
        async with await trio.open_tcp_stream("127.0.0.1", api.port) as silent:
            await silent.send_all(sent) if sent else None
            with trio.fail_after(5):
                assert await silent.receive_some() == b""
    await until(lambda: api.load.connections == 0)


async def test_a_client_that_stops_reading_is_cut_off(
    api: Served, endless: Endless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "API_WRITE_DEADLINE_S", 0.3)
    stuck = await api.connect()
    await stuck.send_all(STUCK)
    await until(lambda: endless.streams == 1)
    await until(lambda: endless.streams == 0)
    await until(lambda: api.load.connections == 0)
    await trio.aclose_forcefully(stuck)


async def test_clients_do_not_hold_up_the_end(api: Served, endless: Endless) -> None:
    stuck, idle = await api.connect(), await api.connect()
    await stuck.send_all(STUCK)
    await idle.do_handshake()
    half = await trio.open_tcp_stream("127.0.0.1", api.port)
    await half.send_all(b"\x16\x03\x01")
    await until(lambda: endless.streams == 1)
    api.scope.cancel()
    with trio.fail_after(server.DRAIN_S + 0.5):
        await api.ended.wait()
    for stream in (stuck, idle, half):
        await trio.aclose_forcefully(stream)


async def test_the_last_answer_ends_with_a_close_that_nobody_can_forge(api: Served) -> None:
    """TLS' own end: without it a client could not tell the end from a cut (RFC 8446, 6.1)."""
    stream = await api.connect()
    await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
    got = b""
    with trio.fail_after(5):
        while piece := await stream.receive_some():
            got += piece
    assert got.endswith(b"hello")
    await stream.aclose()
    await until(lambda: api.load.connections == 0)


# -- mill.client ----------------------------------------------------------------------------------------------------


async def told(url: str, ca: Path | None) -> str:
    async with Client(url, "t", ca=ca) as mill:
        with pytest.raises(MillError) as caught:
            await mill.status()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def ca(api: Served, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text(api.channels.trusted_pem)
    return path


async def test_the_client_trusts_the_clusters_authority(api: Served, ca: Path) -> None:
    assert "answered 404" in await told(api.url, ca)  # this application has no status


async def test_the_client_tells_in_one_line_what_keeps_it_from_trusting(
    api: Served, ca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILL_DATA_DIR", str(tmp_path / "none"))
    assert "set MILL_CA to a copy of ca.pem" in await told(api.url, None)
    other = tmp_path / "other.pem"
    other.write_text(channels(ring=FOREIGN).trusted_pem)
    assert "set MILL_CA" in await told(api.url, other)
    assert "--tls-names" in await told(f"https://localhost:{api.port}", ca)
    assert "write https://" in await told(f"http://127.0.0.1:{api.port}", ca)


async def test_https_to_a_port_of_plain_http_is_one_line(served: object, ca: Path) -> None:
    with pytest.raises(ConnectionFailed, match="speaks plain HTTP there; write http://"):
        async with Client(f"https://127.0.0.1:{served.port}", "t", ca=ca) as mill:  # type: ignore[attr-defined]
            await mill.status()


@pytest.mark.parametrize(("content", "told_of"), [(None, "cannot read"), (b"none", "holds no certificate")])
def test_an_authority_that_is_none_is_one_line(tmp_path: Path, content: bytes | None, told_of: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FieldError, match=told_of) as caught:
        Client("https://127.0.0.1:1", "t", ca=path)
    assert caught.value.field == "MILL_CA"


# -- other nodes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", [ME, None])
async def test_the_application_is_told_which_node_asks(peers: Served, node: str | None) -> None:
    assert await ask(peers, channels(PEER), node) == f"https {PEER}"


async def test_who_is_no_node_of_the_cluster_never_reaches_the_application(peers: Served) -> None:
    for stranger in (channels(PEER, FOREIGN),):
        with pytest.raises(httpx.TransportError):
            await ask(peers, stranger)
    user = ssl.create_default_context(cadata=peers.channels.trusted_pem)
    async with httpx.AsyncClient(verify=user, trust_env=False) as http:
        with pytest.raises(httpx.TransportError):
            await http.get(f"{peers.url}/who")
    assert peers.load.requests == 0


async def test_another_node_than_the_one_meant_gets_no_request(peers: Served) -> None:
    with pytest.raises(httpx.ConnectError):
        await ask(peers, channels(PEER), "cc" * 16)
    assert peers.load.requests == 0
