"""The files that hold secrets: `cluster.secret`, and how such files are written.

    mill1-<key id>-<secret>     the one in use
    mill1-<key id>-<secret>     others that are understood, while the secret is being changed
    retired-<key id>            those of former times, of which no more is kept

Blocks for files. The daemon calls it at its start, and whenever the ring changes.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mill.errors import SetupError
from mill.security.keys import SECRET_BYTES, Keyring, Secret, parse

SECRET_NAME = "cluster.secret"  # noqa: S105 -- a file's name
MOST_FILE_BYTES = 4096
RETIRED = "retired-"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_RETIRED = re.compile(RETIRED + r"([0-9a-f]{8})")


def read_or_make(path: Path, given: Keyring | None = None) -> Keyring:
    """The ring in *path*; at the first start it is the one that was *given*, or a new secret.

    A given one that never was of this node's cluster is a `SetupError`, and so is whatever is wrong with the file: neither
    repeats anything of a secret. One that has been changed since may still be given, as the options of a service may do.
    """
    ring = read(path)
    if ring is None:
        ring = given or Keyring(make())
        write(path, ring)
    elif given is not None and not ring.knew(given.used.key_id):
        raise SetupError(
            f"this node is of a cluster with another secret (key {ring.used.key_id.hex()} in {path}) than the one given "
            f"(key {given.used.key_id.hex()}): leave it out, or choose another --data-dir"
        )
    return ring


def make() -> Secret:
    """A new one."""
    return Secret(secrets.token_bytes(SECRET_BYTES))


def read(path: Path) -> Keyring | None:
    """The ring in *path*, which is nobody else's to read; None where there is none."""
    try:
        mode, content = _content(path)
    except FileNotFoundError:
        return None
    if mode & _OTHERS:
        raise SetupError(f"{path} may be read by others than its owner: run 'chmod 600 {path}'")
    return _ring(path, content)


def read_given(file: Path | None, text: str | None) -> Keyring | None:
    """What a user gives a new node: ``--secret-file``, which may be anybody's (a container's secrets are), or ``MILL_SECRET``."""
    if file is not None and text is not None:
        raise SetupError("--secret-file and MILL_SECRET both give a secret: leave one of them out")
    if text is not None:
        try:
            return Keyring(parse(text.strip()))
        except ValueError as error:
            raise SetupError(f"MILL_SECRET: {error}") from None
    if file is None:
        return None
    try:
        return _ring(file, _content(file)[1])
    except FileNotFoundError:
        raise SetupError(f"cannot read the cluster's secret in {file}: there is no such file") from None


def write(path: Path, ring: Keyring) -> None:
    """*ring* is the file's content; else the file is as it was, and `SetupError`."""
    write_private(path, "".join(f"{line}\n" for line in _lines(ring)))


def _lines(ring: Keyring) -> Iterator[str]:
    yield from (secret.text for secret in ring)
    yield from (f"{RETIRED}{key_id.hex()}" for key_id in ring.retired)


def write_private(path: Path, text: str) -> None:
    """*text* is all that *path* holds, for its owner's eyes (mode 0600); else the file is as it was, and `SetupError`."""
    temporary = path.with_name(f"{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)  # one of a crash might have been made by others, or open to them
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise SetupError(f"cannot write {path}: {error.strerror}; see --data-dir") from None


def _content(path: Path) -> tuple[int, bytes]:
    """The file's mode, and what is in it up to a byte too many."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mode, file.read(MOST_FILE_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SetupError(f"cannot read the cluster's secret in {path}: {error.strerror}") from None


def _ring(path: Path, content: bytes) -> Keyring:
    if not content:
        raise SetupError(f"{path} is empty: put the secret back, or remove the file to found a cluster anew")
    if len(content) > MOST_FILE_BYTES:
        raise SetupError(f"{path} is longer than {MOST_FILE_BYTES} bytes, and so no cluster secret")
    try:
        lines = content.decode("ascii", "replace").splitlines()
        retired = [match[1] for line in lines if (match := _RETIRED.fullmatch(line))]
        used, *others = [parse(line) for line in lines if not _RETIRED.fullmatch(line)] or [parse("")]
        return Keyring(used, tuple(others), tuple(bytes.fromhex(key_id) for key_id in retired))
    except ValueError as error:
        raise SetupError(f"{path}: {error}") from None
