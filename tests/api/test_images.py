"""Images over HTTP: the list, and archives that are streamed to disk at the disk's pace."""

import errno
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from mill.api import images as images_module
from mill.errors import Conflict, FieldError, MillError, NotFound, PullError
from mill.model import LayerProgress, LayerState, PullPolicy, PullProgress
from tests.api.conftest import Served, problem, until
from tests.api.fakes import DIGEST, TOKEN, FakeNode

PULL = "/v1/images/pull"
LOAD = "/v1/images/load"


def left(fake: FakeNode) -> list[Path]:
    return list(fake.uploads.iterdir()) if fake.uploads.exists() else []


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def test_the_images_are_listed(api: httpx.AsyncClient) -> None:
    assert (await api.get("/v1/images")).json() == {
        "images": [
            {
                "ref": "docker.io/library/busybox:latest",
                "digest": DIGEST,
                "size": 5,
                "created": "2027-01-15T08:00:00.000Z",
            }
        ]
    }
    assert problem(await api.get("/v1/images?all=1")) == (400, "bad-field", "all")


async def test_an_archive_arrives_byte_for_byte_and_its_file_goes(
    api: httpx.AsyncClient, fake: FakeNode
) -> None:
    data = os.urandom(3 * 1024**2 + 1)
    answer = await api.post(f"{LOAD}?name=mine", content=data)
    assert answer.status_code == 200
    assert answer.json()["images"][0]["ref"] == "docker.io/library/busybox:latest"
    await api.post(LOAD, content=pieces(data[:10], b"", data[10:]))
    assert fake.images.loaded == [(data, "mine"), (data, None)]
    assert {path.parent for path in fake.images.paths} == {fake.uploads}
    assert left(fake) == []
    assert fake.uploads.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("fault", "status", "slug"), [
    (FieldError("archive", "is neither an OCI nor a Docker archive"), 400, "bad-field"),
    (PullError("disk", "no space left"), 502, "pull-error"),
])  # fmt: skip
async def test_an_archive_that_cannot_be_loaded_leaves_nothing(
    api: httpx.AsyncClient, fake: FakeNode, fault: Any, status: int, slug: str
) -> None:
    fake.images.fault = fault
    assert problem(await api.post(LOAD, content=b"x"))[:2] == (status, slug)
    assert left(fake) == []


async def test_an_empty_body_is_no_archive(api: httpx.AsyncClient, fake: FakeNode) -> None:
    for content in (b"", pieces()):
        assert problem(await api.post(LOAD, content=content)) == (400, "bad-field", "archive")
    assert fake.images.loaded == []
    assert left(fake) == []


@pytest.mark.parametrize("query", ["name=a&name=b", "tag=x"])
async def test_a_bad_query_is_refused_before_a_byte_is_kept(
    api: httpx.AsyncClient, fake: FakeNode, query: str
) -> None:
    assert problem(await api.post(f"{LOAD}?{query}", content=b"x"))[0] == 400
    assert not fake.uploads.exists()


@pytest.mark.parametrize("form", ["with a length", "in chunks"])
async def test_an_archive_over_the_limit_is_refused_and_leaves_nothing(
    api: httpx.AsyncClient, fake: FakeNode, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(images_module, "API_ARCHIVE_BYTES", 1000)
    content: Any = pieces(b"x" * 600, b"x" * 600) if form == "in chunks" else b"x" * 1001
    assert problem(await api.post(LOAD, content=content)) == (413, "too-large", None)
    assert fake.images.loaded == []
    assert left(fake) == []
    assert (await api.post(LOAD, content=b"x" * 1000)).status_code == 200


async def test_a_full_disk_is_507_and_leaves_nothing(
    api: httpx.AsyncClient, fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel writes what fits first and fails then."""
    room = 10

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fits = min(room, len(data))
        room -= fits
        return original(descriptor, data[:fits])

    original = os.write
    monkeypatch.setattr(os, "write", write)
    answer = await api.post(LOAD, content=b"x" * 100)
    monkeypatch.undo()
    assert problem(answer) == (507, "no-space", None)
    assert "No space left" in answer.json()["detail"]
    assert fake.images.loaded == []
    assert left(fake) == []


async def test_a_folder_that_cannot_be_made_is_507(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.uploads.write_text("in the way")
    assert problem(await api.post(LOAD, content=b"x")) == (507, "no-space", None)


async def test_an_upload_that_breaks_off_leaves_nothing(served: Served, fake: FakeNode) -> None:
    head = f"POST {LOAD} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n\r\n"
    stream = await served.connect(head.encode() + b"some of it")
    await until(lambda: left(fake))
    await stream.aclose()
    await until(lambda: not left(fake))
    assert fake.images.loaded == []


async def test_a_slow_disk_slows_the_sender_and_fills_no_memory(
    served: Served, fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is under way at once is bounded by the kernel's buffers of a socket and by ours, whatever is sent."""
    size, may_write, largest = 64 * 1024**2, threading.Event(), 0

    def write(descriptor: int, data: bytes) -> None:
        nonlocal largest
        largest = max(largest, len(data))
        may_write.wait()
        original(descriptor, data)

    original = images_module._write_all
    monkeypatch.setattr(images_module, "_write_all", write)
    head = (
        f"POST {LOAD} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {size}\r\n\r\n"
    )
    sent = 0
    try:
        async with await served.connect(head.encode()) as stream:
            piece = bytes(256 * 1024)
            stuck = False
            while not stuck:
                with trio.move_on_after(0.5) as patience:
                    await stream.socket.send(piece)
                stuck = patience.cancelled_caught
                sent += 0 if stuck else len(piece)  # counts too much where a part was taken
                assert sent < size / 2
            may_write.set()
    finally:
        may_write.set()
    await until(lambda: not left(fake))
    assert largest < 4 * 1024**2
    assert fake.images.loaded == []


async def test_a_large_archive_goes_through_at_full_length(api: httpx.AsyncClient, fake: FakeNode) -> None:
    """More than Quart's own limit of 16 MiB."""
    data = bytes(20 * 1024**2)
    assert (await api.post(LOAD, content=data)).status_code == 200
    assert [len(loaded) for loaded, _ in fake.images.loaded] == [len(data)]


# -- pulls that are watched -----------------------------------------------------------------------------------------

HALF = PullProgress(5, 10, (LayerProgress(DIGEST, LayerState.DOWNLOADING, 5, 10),))
HALF_JSON = {
    "done": 5,
    "total": 10,
    "layers": [{"digest": DIGEST, "state": "downloading", "done": 5, "total": 10}],
}
IMAGE_JSON = {
    "ref": "docker.io/library/busybox:latest",
    "digest": DIGEST,
    "size": 5,
    "created": "2027-01-15T08:00:00.000Z",
}


async def test_a_pull_tells_its_progress_as_it_goes_and_last_the_image(
    api: httpx.AsyncClient, fake: FakeNode
) -> None:
    fake.images.told = [HALF]
    async with api.stream("POST", PULL, json={"image": "busybox"}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = answer.aiter_lines()
        assert json.loads(await anext(lines)) == {"progress": HALF_JSON}  # while the pull goes on
        assert not fake.images.closed.is_set()
        fake.images.go_on.set()
        assert [json.loads(line) async for line in lines] == [{"image": IMAGE_JSON}]
    assert fake.images.asked == [("busybox", PullPolicy.ALWAYS)]


async def test_a_pull_as_events(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.images.told = [HALF]
    fake.images.go_on.set()
    answer = await api.post(
        PULL, json={"image": "busybox", "pull": "missing"}, headers={"Accept": "text/event-stream"}
    )
    assert answer.headers["content-type"] == "text/event-stream"
    begin, progress, image, rest = answer.text.split("\n\n")
    assert begin.startswith(":")
    assert rest == ""
    for text, name, said in ((progress, "progress", HALF_JSON), (image, "image", IMAGE_JSON)):
        event, data = text.split("\n")
        assert event == f"event: {name}"
        assert json.loads(data.removeprefix("data: ")) == {name: said}
    assert fake.images.asked == [("busybox", PullPolicy.MISSING)]


async def test_a_pull_that_fails_says_so_in_its_last_line(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.images.fault = PullError("not_found", "cannot pull busybox: there is none")
    fake.images.go_on.set()
    answer = await api.post(PULL, json={"image": "busybox"})
    assert answer.status_code == 200
    assert answer.json() == {
        "error": {
            "type": "urn:mill:problem:pull-error",
            "title": "image cannot be pulled",
            "status": 502,
            "detail": "cannot pull busybox: there is none",
        }
    }


@pytest.mark.parametrize(("body", "field"), [
    ({"image": "Busy Box"}, "image"), ({"image": ""}, "image"), ({"image": 5}, "image"), ({}, "image"),
    ({"image": "busybox", "pull": "never"}, "pull"), ({"image": "busybox", "pull": "often"}, "pull"),
    ({"image": "busybox", "tag": "x"}, "tag"),
])  # fmt: skip
async def test_a_bad_pull_is_refused_before_the_stream_begins(
    api: httpx.AsyncClient, fake: FakeNode, body: dict[str, Any], field: str
) -> None:
    assert problem(await api.post(PULL, json=body)) == (400, "bad-field", field)
    assert fake.images.asked == []


async def test_a_pull_is_given_up_with_its_connection(served: Served, fake: FakeNode) -> None:
    body = b'{"image": "busybox"}'
    head = f"POST {PULL} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    stream = await served.connect(head.encode() + body)
    await until(lambda: fake.images.asked)
    assert not fake.images.closed.is_set()
    await stream.aclose()
    with trio.fail_after(5):
        await fake.images.closed.wait()


# -- removal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", [
    "busybox", "registry.example.com:5000/a/b:v1", f"docker.io/library/busybox@{DIGEST}", "load", "pull",
])  # fmt: skip
async def test_an_image_is_removed_by_its_name_quoted_or_not(
    api: httpx.AsyncClient, fake: FakeNode, ref: str
) -> None:
    for path in (ref, ref.replace("/", "%2F").replace(":", "%3A")):
        answer = await api.delete(f"/v1/images/{path}")
        assert (answer.status_code, answer.content) == (204, b"")
    assert fake.images.asked == [ref, ref]


@pytest.mark.parametrize(("fault", "status", "slug"), [
    (NotFound("no image x"), 404, "not-found"),
    (Conflict("x is used by a-0001"), 409, "conflict"),
    (FieldError("ref", "is no reference"), 400, "bad-field"),
])  # fmt: skip
async def test_an_image_that_cannot_be_removed_is_told_why(
    api: httpx.AsyncClient, fake: FakeNode, fault: MillError, status: int, slug: str
) -> None:
    fake.images.fault = fault
    assert problem(await api.delete("/v1/images/x"))[:2] == (status, slug)
