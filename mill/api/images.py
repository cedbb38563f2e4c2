"""``/v1/images``: what this node has, and loading archives, which are streamed to disk first."""

import os
import tempfile
from contextlib import aclosing, suppress
from pathlib import Path

import trio
from quart import Blueprint, Response, request

from mill.api.answers import json_answer
from mill.api.core import Core
from mill.api.request import Query, body_chunks
from mill.config import API_ARCHIVE_BYTES
from mill.errors import FieldError, NoSpace


def routes(core: Core) -> Blueprint:
    """The routes, over *core*."""
    found = Blueprint("images", __name__)

    @found.get("/v1/images")
    async def listing() -> Response:
        Query().done()
        return json_answer({"images": await core.images.list()})

    @found.post("/v1/images/load")
    async def load() -> Response:
        query = Query()
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

    return found


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
