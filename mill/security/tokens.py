"""API tokens: random, kept as hashes only. The node's first start makes one and leaves it in a file for root.

The daemon makes the `Tokens`; the API asks them who is calling. Knows no HTTP.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

import attrs

from mill.errors import SetupError
from mill.security.secret_file import write_private

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
        write_private(path, token + "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"cannot read the token in {path}: {error}") from None
    if not token:
        raise SetupError(f"{path} is empty: remove it, and the next start makes a new token")
    return token
