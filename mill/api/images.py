"""``/v1/images``: what a node has, this one unless ``node`` names another, pulls that are watched, archives (streamed to disk first), removal."""

import json
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import trio
from quart import Blueprint, Response, request

from mill.api.answers import json_answer, nothing
from mill.api.core import Core
from mill.api.forward import NODE, at_node
from mill.api.problems import problem
from mill.api.request import Query, body_chunks, json_body
from mill.api.scopes import needs
from mill.config import API_ARCHIVE_BYTES, API_BODY_BYTES
from mill.containerd import reference
from mill.convert import to_json
from mill.errors import FieldError, MillError, NoSpace
from mill.model import Image, PullProgress, PullRequest, Scope

NDJSON, SSE = "application/x-ndjson", "text/event-stream"


def routes(core: Core) -> Blueprint:
    """The routes, over *core*."""
    found = Blueprint("images", __name__)
    _of_all(found, core)
    _of_one(found, core)
    return found


def _of_all(found: Blueprint, core: Core) -> None:
    @found.get("/v1/images")
    @needs(Scope.READ)
    @at_node(core)
    async def listing() -> Response:
        _query().done()
        return json_answer({"images": await core.images.list()})

    @found.post("/v1/images/load")
    @needs(Scope.ADMIN)
    @at_node(core, most_bytes=API_ARCHIVE_BYTES)
    async def load() -> Response:
        query = _query()
        name = query.text("name")
        query.done()
        request.body_timeout = None
        descriptor, path = await trio.to_thread.run_sync(_temporary, core.uploads)
        try:
            size = await _receive(descriptor, core.uploads)
            if not size:
                raise FieldError("archive", "the body is empty: send the archive's bytes")
            return json_answer({"images": await core.images.load(path, name=name)})
        finally:
            with suppress(FileNotFoundError):
                path.unlink()


def _of_one(found: Blueprint, core: Core) -> None:
    @found.post("/v1/images/pull")
    @needs(Scope.SPAWN)
    @at_node(core, most_bytes=API_BODY_BYTES)
    async def pull() -> Response:
        _query().done()
        wanted = await json_body(PullRequest)
        try:
            reference.parse(wanted.image)
        except ValueError as error:
            raise FieldError("image", str(error)) from None
        kind = request.accept_mimetypes.best_match([NDJSON, SSE], default=NDJSON)
        answer = Response(_told(core.images.pull(wanted.image, wanted.pull), kind), content_type=kind)
        answer.timeout = None  # a large layer takes its time to unpack
        answer.headers["Cache-Control"] = "no-store"
        return answer

    @found.delete("/v1/images/<path:ref>")
    @needs(Scope.ADMIN)
    @at_node(core)
    async def remove(ref: str) -> Response:
        _query().done()
        await core.images.remove(ref)
        return nothing()


def _query() -> Query:
    """The node was looked at already."""
    query = Query()
    query.text(NODE)
    return query


async def _told(pull: AsyncGenerator[PullProgress | Image, None], kind: str) -> AsyncIterator[bytes]:
    """Each piece of news as soon as there is one; the last is the image, or what went wrong."""
    yield b"" if kind == NDJSON else b": a pull\n\n"  # sends the headers at once
    try:
        async with aclosing(pull):
            async for news in pull:
                yield _line(kind, "progress" if isinstance(news, PullProgress) else "image", to_json(news))
    except MillError as error:
        yield _line(kind, "error", problem(error))


def _line(kind: str, name: str, said: Any) -> bytes:
    text = json.dumps({name: said})
    return f"{text}\n".encode() if kind == NDJSON else f"event: {name}\ndata: {text}\n\n".encode()


def _temporary(folder: Path) -> tuple[int, Path]:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="image-", suffix=".tar", dir=folder)
    except OSError as error:
        raise _no_space(folder, error) from None
    return descriptor, Path(name)


async def _receive(descriptor: int, folder: Path) -> int:
    """The body into the file; its size. The file is closed either way."""
    size = 0
    try:
        async with aclosing(body_chunks(API_ARCHIVE_BYTES)) as chunks:
            async for chunk in chunks:
                await trio.to_thread.run_sync(_write_all, descriptor, chunk)
                size += len(chunk)
    except OSError as error:
        raise _no_space(folder, error) from None
    finally:
        os.close(descriptor)
    return size


def _write_all(descriptor: int, data: bytes) -> None:
    """All of *data*: a disk that fills up takes a part of it first."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _no_space(folder: Path, error: OSError) -> NoSpace:
    return NoSpace(f"cannot keep the archive under {folder}: {error.strerror}")
