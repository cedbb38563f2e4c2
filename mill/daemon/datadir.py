"""The data directory: made, locked to one milld, and the node's identity in it. Blocks for files; called once at the start."""

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mill.errors import SetupError

LOCK_NAME = "milld.pid"
API_NAME = "api.json"
AUTHORITY_NAME = "ca.pem"
TOKEN_NAME = "admin.token"  # noqa: S105 -- a file's name
NODE_NAME = "node.id"
PROBE_BYTES = 16


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """The directory, ours alone for the length of the block; `SetupError` names the milld that has it.

    A directory that was not there before is gone again if the block has kept nothing in it.
    """
    there = path.exists()
    descriptor = _locked(path)
    try:
        _write_pid(descriptor, path)
        yield
    finally:
        with suppress(OSError):  # somebody else is about to use it
            if not there and [file.name for file in path.iterdir()] == [LOCK_NAME]:
                (path / LOCK_NAME).unlink()
                path.rmdir()
        os.close(descriptor)


def _locked(path: Path) -> int:
    """A descriptor of the lock file, which holds the lock."""
    while True:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SetupError(
                f"cannot use the data directory {path}: {error.strerror}; choose another with --data-dir"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, PROBE_BYTES, 0).decode("ascii", "replace").strip() or "?"
            os.close(descriptor)
            raise SetupError(
                f"another milld (pid {pid}) runs on {path}: stop it, or choose another --data-dir"
            ) from None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # its last holder removed it between our open and our lock


def _write_pid(descriptor: int, path: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise SetupError(f"cannot write to the data directory {path}: {error.strerror}") from None


def node_id(path: Path) -> str:
    """The node's id, a random UUID made at the first start."""
    file = path / NODE_NAME
    try:
        return str(uuid.UUID(file.read_text(encoding="ascii").strip()))
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        raise SetupError(
            f"{file} holds no node id: put the old one back; without it this is a new node, which knows no task"
        ) from None
    made = str(uuid.uuid4())
    write_whole(file, f"{made}\n", mode=0o644)
    return made


def publish_api(path: Path, address: str, authority: str) -> None:
    """Where the API listens and, in PEM, what its certificate is signed by, for `mill` on this host."""
    publish_authority(path, authority)
    write_whole(path / API_NAME, json.dumps({"address": address}) + "\n", mode=0o644)


def publish_authority(path: Path, authority: str) -> None:
    """By itself, while milld runs: the secret that it comes of is being changed."""
    write_whole(path / AUTHORITY_NAME, authority, mode=0o644)


def write_whole(file: Path, text: str, *, mode: int) -> None:
    """*text* as the file's only content, or the file as it was and `SetupError`."""
    temporary = file.with_name(file.name + ".new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise SetupError(f"cannot write {file}: {error.strerror}; see --data-dir") from None
