"""API tokens: random, kept as hashes only. The node's first start makes one and leaves it in a file for root.

The daemon makes the `Tokens`; the API asks them who is calling. Knows no HTTP.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import attrs

from mill.errors import SetupError

TOKEN_BYTES = 32
"""256 bits of randomness: not to be guessed, so that a plain hash is enough to keep it by."""
ADMIN = "admin"


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@attrs.frozen
class Tokens:
    """Hashes by the name of their holder."""

    hashes: dict[str, str]

    def who(self, token: str) -> str | None:
        """The holder of *token*, or None. Takes the same time whichever of them it is."""
        asked = hash_of(token)
        found = None
        for name, kept in self.hashes.items():
            if hmac.compare_digest(asked, kept):
                found = name
        return found


def read_or_make(path: Path) -> str:
    """The token in *path* (mode 0600), made at the first start; blocks for a file."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(TOKEN_BYTES)
        _write(path, token)
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"cannot read the token in {path}: {error}") from None
    if not token:
        raise SetupError(f"{path} is empty: remove it, and the next start makes a new token")
    return token


def _write(path: Path, token: str) -> None:
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
