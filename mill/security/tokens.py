"""API tokens: random, each with a scope, most with an end, kept as hashes only. The node's first start makes one for its admin.

That one lies in a file for root; the others are made by the API, told once, and stored as hashes: what is stored opens
nothing. The daemon makes the `Tokens`; the API asks them who is calling. Knows no HTTP.
"""

import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import attrs

from mill.errors import Conflict, NotFound, SetupError, Unauthorized
from mill.model import IssuedToken, Scope, Time, TokenRequest, TokenView
from mill.security.secret_file import write_private

TOKEN_BYTES = 32
"""256 bits of randomness: not to be guessed, so that a plain hash is enough to keep it by."""
PREFIX = "mill_"
"""Lets programs that look for leaked secrets know one."""
ADMIN = "admin"
"""The id and the name of the token in admin.token."""
ID_LENGTH = 12
MOST_TOKENS = 1000
"""Beside the admin's. Those that have expired make room."""

_ADMIN = TokenView(ADMIN, ADMIN, Scope.ADMIN)


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class TokenStore(Protocol):
    """As `store.Store`."""

    async def put_token(self, hashed: str, token: TokenView) -> None: ...

    async def delete_token(self, hashed: str) -> None: ...

    async def tokens(self) -> dict[str, TokenView]: ...


@attrs.define(eq=False)
class Tokens:
    """All tokens by their hashes, in memory; those beside the admin's are written through."""

    _store: TokenStore
    _now: Callable[[], float]
    _admin_hash: str | None = attrs.field(repr=False)
    _stored: dict[str, TokenView] = attrs.field(repr=False)

    @classmethod
    async def load(cls, store: TokenStore, admin: str | None, now: Callable[[], float]) -> "Tokens":
        """*admin*: the hash of the admin's token, where it is known already."""
        return cls(store, now, admin, await store.tokens())

    def who(self, token: str) -> TokenView | None:
        """The token that *token* is, or None. `Unauthorized` for one whose time is over.

        Looked up by its hash: how long that takes says nothing that helps to guess a token.
        """
        hashed = hash_of(token)
        found = _ADMIN if hashed == self._admin_hash else self._stored.get(hashed)
        if found is not None and self._is_over(found):
            raise Unauthorized(f"the token {found.name} ({found.id}) has expired: have a new one made")
        return found

    def all(self) -> list[TokenView]:
        """The admin's first, then by age; those that have expired too, until they make room."""
        return [_ADMIN, *sorted(self._stored.values(), key=lambda token: (token.created or 0.0, token.id))]

    async def create(self, request: TokenRequest) -> IssuedToken:
        """Tells the new token once; `Conflict` where there are `MOST_TOKENS`."""
        await self._make_room()
        token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
        hashed, now = hash_of(token), self._now()
        expires = None if request.expires is None else Time(now + request.expires)
        token_id = hashed[:ID_LENGTH]
        view = TokenView(token_id, request.name or token_id, request.scope, Time(now), expires)
        await self._store.put_token(hashed, view)
        self._stored[hashed] = view
        return IssuedToken(token, view)

    async def delete(self, token_id: str) -> None:
        """Opens nothing from now on. `NotFound`; `Conflict` for the one in admin.token."""
        if token_id == ADMIN:
            raise Conflict(
                "the admin's token lies in admin.token: remove that file, and restart milld for a new one"
            )
        hashed = next((hashed for hashed, kept in self._stored.items() if kept.id == token_id), None)
        if hashed is None:
            raise NotFound(f"no token {token_id[:80]!r}")
        await self._store.delete_token(hashed)
        self._stored.pop(hashed, None)

    def learn(self, hashed: str, token: TokenView | None) -> None:
        """Another node has made it, or removed it."""
        if token is None:
            self._stored.pop(hashed, None)
        else:
            self._stored[hashed] = token

    def learn_admin(self, hashed: str | None) -> None:
        self._admin_hash = hashed

    async def _make_room(self) -> None:
        if len(self._stored) < MOST_TOKENS:
            return
        for hashed in [hashed for hashed, kept in self._stored.items() if self._is_over(kept)]:
            await self._store.delete_token(hashed)
            self._stored.pop(hashed, None)
        if len(self._stored) >= MOST_TOKENS:
            raise Conflict(f"there are {MOST_TOKENS} tokens: remove some that nobody needs")

    def _is_over(self, token: TokenView) -> bool:
        return token.expires is not None and token.expires <= self._now()


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
