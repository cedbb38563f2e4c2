"""What the server makes of input that is no HTTP, of bugs, and of addresses that it cannot listen on."""

import contextlib
import errno
import json
import socket
from functools import partial
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from mill.api import server
from mill.errors import SetupError
from tests.api.conftest import Served
from tests.api.endless import GET, Endless, answer_on

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: "
KEY = b"\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"


@pytest.mark.parametrize(("sent", "status"), [
    (b"\r\n\r\n", 400),
    (b"GET /\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),
    (b"FO O / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nb\x00d: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200_000 + b"\r\n\r\n", 431),
    (HEAD + b"Content-Length: -5\r\n\r\n", 400),
    (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    (HEAD + b"Transfer-Encoding: foo\r\n\r\n", 501),
    (b"PRI * HTTP/2.0\r\n\r\n", 404),
    (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    (b"GET / HTTP/1.0\r\n\r\n", 200),
    (b"GET /?%ff=%fe&=&&a HTTP/1.1\r\nHost: [::1\r\nCookie: \xff\xfe=;;;\r\nAccept: */*;q=x\r\n\r\n", 200),
    (b"GET /%ff%zz%00 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    (b"GET nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    (UPGRADE + b"h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", 200),
    (UPGRADE + b"h2c\r\nHTTP2-Settings: !!!\r\n\r\n", 200),
    (UPGRADE + b"websocket" + KEY, 200),
    (UPGRADE + b"websocket\r\n\r\n", 200),
], ids=lambda value: str(value)[:40])  # fmt: skip
async def test_odd_requests_get_an_answer_and_harm_nobody(open_: Served, sent: bytes, status: int) -> None:
    for half in (False, True):
        async with await open_.connect() as stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(sent)
                if half:
                    await stream.send_eof()
                with trio.fail_after(5):
                    answer = await stream.receive_some()
                # One who sends no more may be cut off before the answer; that is HTTP/1.1's way.
                assert (half and not answer) or answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    async with await open_.connect() as stream:
        assert (await answer_on(stream)).endswith(b"hello")


@pytest.mark.parametrize(("sent", "status", "slug"), [
    (b"GET /\r\n\r\n", 400, "bad-request"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200_000 + b"\r\n\r\n", 431, "headers-too-long"),
    (HEAD + b"Transfer-Encoding: foo\r\n\r\n", 501, "not-implemented"),
], ids=lambda value: str(value)[:20])  # fmt: skip
async def test_what_is_no_http_is_a_problem_too(open_: Served, sent: bytes, status: int, slug: str) -> None:
    async with await open_.connect() as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(sent)
        answer = b""
        with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
            while part := await stream.receive_some():
                answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    said = json.loads(body)
    assert (said["status"], said["type"]) == (status, f"urn:mill:problem:{slug}")
    assert "\n" not in said["detail"]


async def test_a_broken_body_ends_one_connection_alone(open_: Served) -> None:
    """The error's answer and the application's own run into each other."""
    with capture_logs() as logged:
        for _ in range(40):
            async with await open_.connect() as stream:
                await stream.send_all(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
                with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
                    while await stream.receive_some():
                        pass
    assert logged == []
    async with await open_.connect() as stream:
        assert (await answer_on(stream)).endswith(b"hello")


async def test_a_client_that_leaves_while_its_answer_begins_is_no_error(
    open_: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Any, __: bytes) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    with capture_logs() as logged:
        async with await open_.connect() as stream:
            with monkeypatch.context() as patched, trio.fail_after(5):
                patched.setattr(trio.SocketStream, "send_all", broken)
                await stream.socket.send(GET)
                assert await stream.receive_some() == b""
        await trio.testing.wait_all_tasks_blocked()
    assert logged == []


async def test_a_bug_on_one_connection_is_logged_and_ends_no_other(
    open_: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(server.Connection, "_read_data", broken)
    with capture_logs() as logged:
        async with await open_.connect() as stream:
            assert await stream.receive_some() == b""
    assert [entry["event"] for entry in logged] == ["internal error on a connection; it was closed"]
    monkeypatch.undo()
    async with await open_.connect() as stream:
        assert (await answer_on(stream)).endswith(b"hello")


async def test_an_accept_that_fails_for_good_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: object) -> None:
        raise OSError(errno.EINVAL, "not listening")

    monkeypatch.setattr(trio.SocketListener, "accept", refuse)
    with pytest.raises(ExceptionGroup) as caught, server.bind("127.0.0.1:0") as sock:
        await server.serve(Endless().app, sock, server.Load(), task_status=trio.TASK_STATUS_IGNORED)
    assert caught.group_contains(OSError, match="not listening")


# -- binding --------------------------------------------------------------------------------------------------------


def test_a_port_in_use_says_what_to_do() -> None:
    with server.bind("127.0.0.1:0") as sock:
        port = sock.getsockname()[1]
        with pytest.raises(SetupError, match=rf"127\.0\.0\.1:{port} is in use: .*--listen"):
            server.bind(f"127.0.0.1:{port}")


def test_an_address_of_another_host_is_one_line() -> None:
    with pytest.raises(
        SetupError, match=r"^cannot listen on 192\.0\.2\.1:4400: Cannot assign requested address$"
    ):
        server.bind("192.0.2.1:4400")


def test_a_closed_port_can_be_taken_again_at_once() -> None:
    with server.bind("127.0.0.1:0") as sock:
        listen = f"127.0.0.1:{sock.getsockname()[1]}"
        with socket.create_connection(sock.getsockname()):
            sock.setblocking(True)
            sock.accept()[0].close()
    server.bind(listen).close()


async def test_it_listens_on_ipv6(endless: Endless, nursery: trio.Nursery) -> None:
    sock = server.bind("[::1]:0")
    await nursery.start(partial(server.serve, endless.app, sock, server.Load()))
    async with httpx.AsyncClient(verify=False) as client:
        assert (await client.get(f"http://[::1]:{sock.getsockname()[1]}/")).text == "hello"
    nursery.cancel_scope.cancel()
