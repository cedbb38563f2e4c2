"""Pulling by HTTP: a real registry, and servers that break every promise they can."""

from collections.abc import Iterator
from contextlib import aclosing
from email.utils import formatdate

import attrs
import httpx
import pytest
import trio

from mill.containerd import oci
from mill.containerd.reference import parse
from mill.containerd.registry import MANIFEST_LIMIT_BYTES, Patience
from mill.containerd.transport import Refused, retry_after_s
from mill.errors import PullError
from tests import images
from tests import registry as real
from tests.containerd.clients import (
    BLOB,
    DATA,
    MANIFEST,
    QUICK,
    always,
    blob_failure,
    client,
    fetch,
    manifest_failure,
)
from tests.containerd.faulty import (
    Asked,
    Reply,
    blob_path,
    partial_content,
    serving,
    wait_closed,
)

# -- a real registry ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_registry() -> Iterator[real.Registry]:
    with real.running() as registry:
        yield registry


async def test_a_manifest_and_its_blobs_come_from_a_real_registry(open_registry: real.Registry) -> None:
    image = images.OciImage([images.make_layer({"a": b"1" * 200_000})])
    made = await images.push(image, open_registry.host, "x/y", "v1")
    async with client() as registry:
        for ref in (f"{open_registry.host}/x/y:v1", f"{open_registry.host}/x/y@{made.digest}"):
            fetched = await registry.manifest(parse(ref))
            assert (fetched.body, fetched.digest, fetched.content_type) == (
                made.manifest,
                made.digest,
                made.manifest_type,
            )
        manifest = oci.parse_manifest(fetched.body)
        assert isinstance(manifest, oci.Manifest)
        layer = manifest.layers[0]
        assert await fetch(registry, open_registry.host, layer) == image.layers[0]
        assert await fetch(registry, open_registry.host, layer, 150_000) == image.layers[0][150_000:]
        assert await registry.small_blob(parse(ref), manifest.config, 10_000) == image.config_bytes


async def test_an_unknown_image_is_not_found(open_registry: real.Registry) -> None:
    async with client() as registry:
        with pytest.raises(PullError, match="has no such image: check name and tag") as caught:
            await registry.manifest(parse(f"{open_registry.host}/x/nothing"))
    assert caught.value.detail == "not_found"


# -- answers that may get better ------------------------------------------------------------------------------------


async def test_a_mirror_gets_one_more_try_and_soon() -> None:
    async with serving(always(Reply(503))) as server, client(patience=Patience(first_s=0.01)) as registry:
        hasty = registry.in_haste()
        assert hasty.patience.delay_s(1, 3600) == 2
        with pytest.raises(PullError, match="2 times in a row"):
            await hasty.manifest(parse(f"{server.host}/x/y"))
        assert len(server.asked) == 2


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_passing_failure_is_waited_out(status: int) -> None:
    answers = iter([Reply(status, headers={"Retry-After": "0"}), Reply(status), Reply(body=DATA)])

    async def handler(_asked: Asked, _stream: trio.SocketStream) -> Reply:
        await trio.lowlevel.checkpoint()
        return next(answers)

    async with serving(handler) as server, client() as registry:
        assert await fetch(registry, server.host) == DATA


async def test_a_lasting_failure_is_network_after_all_tries() -> None:
    error, server = await manifest_failure(always(Reply(503)))
    assert (error.detail, len(server.asked)) == ("network", QUICK.tries)
    assert "answered 503, 3 times in a row: check the network" in error.message


@pytest.mark.parametrize(
    ("status", "detail"), [(404, "not_found"), (400, "invalid"), (410, "invalid"), (204, "invalid")]
)
async def test_a_final_answer_is_believed_at_once(status: int, detail: str) -> None:
    error, server = await manifest_failure(always(Reply(status)))
    assert (error.detail, len(server.asked)) == (detail, 1)


def test_delays_double_and_a_registrys_wish_is_heeded_within_bounds() -> None:
    patience = Patience(first_s=1, most_s=5, retry_after_most_s=60)
    assert [patience.delay_s(n, None) for n in (1, 2, 3, 4, 50)] == [1, 2, 4, 5, 5]
    assert [patience.delay_s(1, after) for after in (0.0, 30.0, 3600.0, -5.0)] == [0, 30, 60, 0]


def test_retry_after_is_a_number_or_a_date() -> None:
    def told(headers: dict[str, str]) -> float | None:
        return retry_after_s(httpx.Response(429, headers=headers), 1000.0)

    assert told({"Retry-After": " 7 "}) == 7
    assert told({"Retry-After": formatdate(1030, usegmt=True)}) == 30
    assert told({"Retry-After": "soon"}) is None
    assert told({}) is None


async def test_nobody_listening_is_network_and_says_so() -> None:
    async with serving(always(Reply())) as server:
        host = server.host
    async with client() as registry:
        with pytest.raises(PullError, match=r"no connection to 127.0.0.1 .*refused") as caught:
            await registry.manifest(parse(f"{host}/x/y"))
    assert caught.value.detail == "network"


async def test_a_server_without_tls_is_named_as_such(open_registry: real.Registry) -> None:
    async with client() as registry:
        with pytest.raises(Refused, match="does not speak TLS"):
            async with registry.transport.open(f"https://{open_registry.host}/", {}):
                pass


# -- bodies ---------------------------------------------------------------------------------------------------------


async def test_a_body_that_breaks_off_is_resumed_where_it_broke() -> None:
    async def handler(asked: Asked, _stream: trio.SocketStream) -> Reply:
        await trio.lowlevel.checkpoint()
        whole = partial_content(DATA, asked.first_byte)
        return attrs.evolve(whole, body=whole.body[:100_000], length=len(whole.body))

    async with serving(handler) as server, client() as registry:
        assert await fetch(registry, server.host) == DATA
    assert [asked.first_byte for asked in server.asked] == [0, 100_000, 200_000]


async def test_a_server_that_ignores_ranges_is_read_from_the_beginning_and_skipped() -> None:
    async def handler(_asked: Asked, _stream: trio.SocketStream) -> Reply:
        await trio.lowlevel.checkpoint()
        # Every connection brings a little more than the one before.
        return Reply(body=DATA[: 90_000 * len(server.asked)], length=len(DATA))

    async with serving(handler) as server, client() as registry:
        assert await fetch(registry, server.host) == DATA
        assert await fetch(registry, server.host, BLOB, 1000) == DATA[1000:]


async def test_a_stalled_body_is_abandoned_and_resumed() -> None:
    async def handler(asked: Asked, stream: trio.SocketStream) -> Reply | None:
        if not asked.first_byte:
            await stream.send_all(Reply(length=len(DATA)).head() + DATA[:5000])
            await wait_closed(stream)
            return None
        return partial_content(DATA, asked.first_byte)

    async with serving(handler) as server, client() as registry:
        assert await fetch(registry, server.host) == DATA
    assert [asked.first_byte for asked in server.asked] == [0, 5000]


async def test_a_server_that_only_stalls_is_network() -> None:
    async def handler(_asked: Asked, stream: trio.SocketStream) -> None:
        await wait_closed(stream)

    error, server = await blob_failure(handler)
    assert (error.detail, len(server.asked)) == ("network", QUICK.tries)
    assert "has stopped sending" in error.message


async def test_a_body_that_always_ends_early_is_network() -> None:
    async def handler(asked: Asked, stream: trio.SocketStream) -> None:
        """No length, and the end of the connection for its end."""
        first = asked.first_byte
        head = (
            f"HTTP/1.1 206 X\r\nContent-Range: bytes {first}-\r\nConnection: close\r\n\r\n".encode()
            if first
            else b""
        )
        await stream.send_all((head or b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n") + DATA[first:100])

    error, _ = await blob_failure(handler)
    assert error.detail == "network"
    assert "ends sha256:" in error.message


@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        (Reply(body=DATA + b"more"), "digest"),
        (Reply(body=DATA[:-1]), "digest"),
        (Reply(416), "digest"),
        (Reply(206, DATA[7:], {"Content-Range": "bytes 7-"}), "invalid"),
        (Reply(206, DATA), "invalid"),
        (Reply(206, DATA, {"Content-Range": "bytes " + "9" * 5000 + "-"}), "invalid"),
        (Reply(206, DATA, {"Content-Range": "pages 0-"}), "invalid"),
        (Reply(body=DATA, headers={"Content-Encoding": "gzip"}), "invalid"),
    ],
)
async def test_a_body_that_cannot_be_the_blob_is_refused(reply: Reply, detail: str) -> None:
    error, server = await blob_failure(always(reply))
    assert (error.detail, len(server.asked)) == (detail, 1)


async def test_more_bytes_than_there_may_be_are_not_taken() -> None:
    async def flood(_asked: Asked, stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 65536)

    assert (await blob_failure(flood))[0].detail == "digest"
    assert (await manifest_failure(flood))[0].detail == "invalid"


async def test_cancelling_a_download_closes_its_connection() -> None:
    async def handler(_asked: Asked, stream: trio.SocketStream) -> None:
        await stream.send_all(Reply(length=len(DATA)).head() + DATA[:1000])
        await wait_closed(stream)
        closed.set()

    closed = trio.Event()
    async with serving(handler) as server, client() as registry:
        async with aclosing(registry.blob(parse(f"{server.host}/x/y"), BLOB)) as pieces:
            with trio.CancelScope() as scope:
                async for _ in pieces:
                    scope.cancel()
        with trio.fail_after(2):
            await closed.wait()


# -- manifests ------------------------------------------------------------------------------------------------------


async def test_all_four_kinds_of_manifest_are_asked_for() -> None:
    async with serving(always(Reply(body=MANIFEST.manifest))) as server, client() as registry:
        await registry.manifest(parse(f"{server.host}/x/y:v1"))
    assert server.asked[0].path == "/v2/x/y/manifests/v1"
    assert set(server.asked[0].headers["accept"].split(", ")) == oci.INDEX_TYPES | oci.MANIFEST_TYPES


async def test_a_manifest_that_does_not_match_is_refused() -> None:
    wrong = "sha256:" + "0" * 64
    by_header = always(Reply(body=MANIFEST.manifest, headers={"Docker-Content-Digest": wrong}))
    assert (await manifest_failure(by_header))[0].detail == "digest"
    assert (await manifest_failure(always(Reply(body=MANIFEST.manifest)), f"x/y@{wrong}"))[
        0
    ].detail == "digest"


async def test_a_web_page_is_no_manifest() -> None:
    page = Reply(body=b"<html>", headers={"Content-Type": "text/html; charset=utf-8"})
    error, server = await manifest_failure(always(page))
    assert (error.detail, len(server.asked)) == ("invalid", 1)
    assert "web page: is it a registry?" in error.message


async def test_a_manifest_that_is_too_large_is_refused() -> None:
    error, server = await manifest_failure(always(Reply(body=b" " * (MANIFEST_LIMIT_BYTES + 1))))
    assert (error.detail, len(server.asked)) == ("invalid", 1)


async def test_a_config_that_does_not_match_or_is_too_large_is_refused() -> None:
    async with serving(always(Reply(body=DATA))) as server, client() as registry:
        ref = parse(f"{server.host}/x/y")
        assert await registry.small_blob(ref, BLOB, len(DATA)) == DATA
        with pytest.raises(PullError) as caught:
            await registry.small_blob(ref, attrs.evolve(BLOB, digest="sha256:" + "0" * 64), len(DATA))
        assert caught.value.detail == "digest"
        with pytest.raises(PullError) as caught:
            await registry.small_blob(ref, BLOB, len(DATA) - 1)
        assert caught.value.detail == "invalid"
    assert set(server.paths()) == {blob_path(DATA), "/v2/x/y/blobs/sha256:" + "0" * 64}


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00" * 100,
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 X\r\n" + b"A: " + b"b" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 X\r\nLocation: http://[bad/\r\n\r\n",
        b"HTTP/1.1 302 X\r\nLocation: gopher://x/\r\n\r\n",
        b'HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer realm="http://[bad"\r\nContent-Length: 0\r\n\r\n',
        b'HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer realm="file:///etc/passwd"\r\nContent-Length: 0\r\n\r\n',
        b"HTTP/1.1 206 X\r\nContent-Range: bytes -\r\nContent-Length: 0\r\n\r\n",
    ],
)  # fmt: skip
async def test_garbage_is_a_pull_error_and_nothing_else(garbage: bytes) -> None:
    async def handler(_asked: Asked, stream: trio.SocketStream) -> None:
        await stream.send_all(garbage)

    error, _ = await blob_failure(handler)
    assert error.detail in {"network", "invalid", "auth"}
    assert "\n" not in error.message
