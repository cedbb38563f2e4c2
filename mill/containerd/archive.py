"""The file of an image archive: a tar, perhaps compressed as a whole, read in threads and never extracted.

`scan` lists its members once, keeping small JSON documents; `Opened` then gives any member's bytes by position. What the
members mean is `layout`'s business; `loading` is the caller. Every fault of the file is a `ValueError` that begins with a verb.
"""

import gzip
import hashlib
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import attrs
import trio
import zstandard

from mill.containerd.layout import Member

READ_BYTES = 2**20  # of one read: short enough that a cancelled load ends at once
_DOCUMENT_LIMIT_BYTES = 8 * 2**20  # one JSON document; the largest are configs
_DOCUMENTS_LIMIT_BYTES = 64 * 2**20  # all that are kept while the archive is read
_HEADER_LIMIT_BYTES = 2**20  # what tarfile may read at once: extended headers, which only a bomb makes larger
_MEMBERS_LIMIT = 20_000  # an image has a few for each layer
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOBS = "blobs/"  # of an OCI layout: a name below it is a digest already


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def close(self) -> object: ...


@attrs.define(eq=False)
class Opened:
    """The unpacked tar as one long file. Reads go forward cheaply; going back in a compressed one begins anew.

    It has what `tarfile` needs of a file, and no more: no read it asks for may be larger than a header.
    """

    path: Path
    _raw: IO[bytes] = attrs.field(init=False)
    _stream: _Readable = attrs.field(init=False)
    _compression: str = attrs.field(init=False)
    _position: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._raw = self.path.open("rb")
        self._compression = compression_of(self._raw.read(4))
        self._rewind()

    def _rewind(self) -> None:
        self._raw.seek(0)
        self._position = 0
        self._stream = _decompressed(self._raw, self._compression)

    def read_at(self, position: int, size: int) -> bytes:
        """Up to *size* bytes from *position* on; fewer only where the file ends."""
        self.seek(position)
        pieces = []
        while size > 0 and (piece := self._read(min(size, READ_BYTES))):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER_LIMIT_BYTES:
            raise ValueError("is no image archive: it has absurdly large headers")
        return self.read_at(self._position, size)

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if not self._compression:
            self._raw.seek(position)
            self._position = position
            return position
        if position < self._position:
            self._rewind()
        while self._position < position:
            if not self._read(min(position - self._position, READ_BYTES)):
                break
        return self._position

    def _read(self, size: int) -> bytes:
        trio.from_thread.check_cancelled()
        try:
            data = self._stream.read(size)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise ValueError(f"is damaged: {error}") from error
        self._position += len(data)
        return data

    def close(self) -> None:
        self._raw.close()


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """`ValueError` when *path* cannot be read."""
    try:
        archive = Opened(path)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    try:
        yield archive
    finally:
        archive.close()


def scan(path: Path) -> dict[str, Member]:
    """Every file and link of the archive by its name. Takes as long as reading a compressed archive does."""
    members: dict[str, Member] = {}
    kept = 0
    with opened(path) as file:
        for number, info in enumerate(_headers(file)):
            name = posixpath.normpath(info.name).lstrip("/")
            if info.issym() or info.islnk():
                target = (
                    info.linkname
                    if info.issym()
                    else posixpath.relpath(info.linkname, posixpath.dirname(name) or ".")
                )
                members[name] = Member(0, link=target)
            elif info.isreg() and not info.issparse():
                member = _member(file, name, info.offset_data, info.size)
                kept += len(member.document or b"")
                members[name] = member
            if number >= _MEMBERS_LIMIT or kept > _DOCUMENTS_LIMIT_BYTES:
                raise ValueError("is no image archive: it has too many members")
    return members


def compression_of(beginning: bytes) -> str:
    """``gzip``, ``zstd``, or nothing, by the first bytes."""
    return next((name for magic, name in _MAGIC.items() if beginning.startswith(magic)), "")


def _headers(file: Opened) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=_as_file(file), mode="r:") as tar:
            while (info := tar.next()) is not None:
                yield info
    except tarfile.TarError as error:
        if not file.tell():
            raise ValueError("is neither an OCI nor a Docker image archive: it is no tar") from error
        raise ValueError(f"is neither an OCI nor a Docker image archive, or damaged: {error}") from error


def _as_file(file: Opened) -> Any:
    return file  # it reads, seeks and tells, which is all that tarfile does with it


def _member(file: Opened, name: str, position: int, size: int) -> Member:
    beginning = file.read_at(position, min(size, 4))
    if beginning[:1] in {b"{", b"["} and size <= _DOCUMENT_LIMIT_BYTES:
        return Member(
            size,
            position,
            document=beginning + file.read_at(position + len(beginning), size - len(beginning)),
        )
    compression = compression_of(beginning)
    if not compression or name.startswith(_BLOBS):
        return Member(size, position)
    digest = hashlib.sha256(beginning)
    done = len(beginning)
    while done < size and (piece := file.read_at(position + done, min(READ_BYTES, size - done))):
        digest.update(piece)
        done += len(piece)
    return Member(size, position, digest="sha256:" + digest.hexdigest(), compression=compression)


def _decompressed(raw: IO[bytes], compression: str) -> _Readable:
    if compression == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if compression == "zstd":
        return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    return raw
