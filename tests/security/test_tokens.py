"""Tokens: made once, readable by root alone, kept and compared as hashes."""

import os
import stat
from pathlib import Path

import pytest

from mill.errors import Conflict, NoSpace, NotFound, SetupError, Unauthorized
from mill.model import Duration, Scope, TokenRequest
from mill.security import tokens as tokens_module
from mill.security.tokens import Tokens, hash_of, read_or_make
from tests.api.fakes import NOW, FakeTokenStore


def test_the_first_start_makes_one_and_the_next_finds_it(tmp_path: Path) -> None:
    path = tmp_path / "admin.token"
    made = read_or_make(path)
    assert read_or_make(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["admin.token"]
    assert len(made) >= 43  # 256 bits in base64
    assert made.isascii()
    assert made == path.read_text().strip()


def test_no_two_are_alike(tmp_path: Path) -> None:
    assert len({read_or_make(tmp_path / str(n)) for n in range(20)}) == 20


def test_one_of_the_users_own_is_taken_without_its_newline(tmp_path: Path) -> None:
    path = tmp_path / "admin.token"
    path.write_text("  mine \n")
    assert read_or_make(path) == "mine"


@pytest.mark.parametrize(
    ("content", "told"), [(b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "cannot read")]
)
def test_a_file_without_a_token_is_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "admin.token"
    path.write_bytes(content)
    with pytest.raises(SetupError, match=told) as caught:
        read_or_make(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "admin.token").mkdir()
    with pytest.raises(SetupError, match="cannot read the token"):
        read_or_make(tmp_path / "admin.token")


def test_a_crash_while_writing_leaves_no_half_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "admin.token"

    def crash(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        read_or_make(path)
    assert not path.exists()
    monkeypatch.undo()
    assert read_or_make(path)


# -- who is calling -------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> list[float]:
    return [NOW]


@pytest.fixture
def store() -> FakeTokenStore:
    return FakeTokenStore()


@pytest.fixture
async def tokens(store: FakeTokenStore, clock: list[float]) -> Tokens:
    return await Tokens.load(store, hash_of("one"), lambda: clock[0])


async def test_the_holder_is_named(tokens: Tokens) -> None:
    made = await tokens.create(TokenRequest(Scope.SPAWN, "ci"))
    for token, name in [("one", "admin"), (made.token, "ci")]:
        found = tokens.who(token)
        assert found is not None
        assert found.name == name
    assert [tokens.who(token) for token in ("two", "", "ONE", "one ", made.token[:-1], made.view.id)] == [
        None
    ] * 6


@pytest.mark.parametrize("token", ["\xff", "💥", "x" * 1_000_000, hash_of("one")])
async def test_an_odd_token_is_nobodys(tokens: Tokens, token: str) -> None:
    assert tokens.who(token) is None


async def test_nothing_of_a_token_is_kept(tokens: Tokens, store: FakeTokenStore) -> None:
    made = await tokens.create(TokenRequest(Scope.READ))
    for shown in (repr(tokens), repr(tokens.all()), repr(store.kept), repr(made)):
        assert made.token not in shown
        assert made.token.removeprefix("mill_") not in shown
    assert store.kept == {hash_of(made.token): made.view}


async def test_a_new_one_says_what_it_is(tokens: Tokens) -> None:
    made = await tokens.create(TokenRequest(Scope.SPAWN, expires=Duration(60.0)))
    assert made.token.startswith("mill_")
    assert len(made.token) >= 43 + len("mill_")
    view = made.view
    assert (view.scope, view.name, view.created, view.expires) == (Scope.SPAWN, view.id, NOW, NOW + 60)
    assert hash_of(made.token).startswith(view.id)


async def test_one_that_has_expired_opens_nothing_and_says_so(tokens: Tokens, clock: list[float]) -> None:
    made = await tokens.create(TokenRequest(Scope.ADMIN, "short", Duration(60.0)))
    clock[0] += 59.9
    assert tokens.who(made.token) == made.view
    clock[0] += 0.1
    with pytest.raises(Unauthorized, match=r"token short .* has expired"):
        tokens.who(made.token)
    assert made.view in tokens.all()


async def test_a_revoked_one_opens_nothing(tokens: Tokens, store: FakeTokenStore) -> None:
    made = await tokens.create(TokenRequest(Scope.READ))
    await tokens.delete(made.view.id)
    assert tokens.who(made.token) is None
    assert store.kept == {}
    with pytest.raises(NotFound):
        await tokens.delete(made.view.id)


async def test_the_admins_is_revoked_by_its_file_alone(tokens: Tokens) -> None:
    with pytest.raises(Conflict, match=r"admin\.token: remove that file"):
        await tokens.delete("admin")
    assert tokens.who("one") is not None


async def test_they_outlive_milld(tokens: Tokens, store: FakeTokenStore, clock: list[float]) -> None:
    made = await tokens.create(TokenRequest(Scope.READ))
    again = await Tokens.load(store, hash_of("another"), lambda: clock[0])
    assert again.who(made.token) == made.view
    assert again.who("one") is None


async def test_what_cannot_be_stored_was_not_made(tokens: Tokens, store: FakeTokenStore) -> None:
    made = await tokens.create(TokenRequest(Scope.READ))
    store.fault = NoSpace("the disk is full")
    with pytest.raises(NoSpace):
        await tokens.create(TokenRequest(Scope.READ))
    with pytest.raises(NoSpace):
        await tokens.delete(made.view.id)
    assert [one.id for one in tokens.all()] == ["admin", made.view.id]
    assert tokens.who(made.token) == made.view


async def test_there_are_only_so_many_and_those_that_expired_make_room(
    tokens: Tokens, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "MOST_TOKENS", 3)
    for expires in (None, Duration(10.0), Duration(20.0)):
        await tokens.create(TokenRequest(Scope.READ, expires=expires))
    with pytest.raises(Conflict, match="remove some"):
        await tokens.create(TokenRequest(Scope.READ))
    clock[0] += 10
    await tokens.create(TokenRequest(Scope.READ))
    assert len(tokens.all()) == 1 + 3


@pytest.mark.parametrize("scope", Scope)
def test_each_scope_covers_those_before_it(scope: Scope) -> None:
    order = [Scope.READ, Scope.SPAWN, Scope.ADMIN]
    assert [scope.covers(other) for other in order] == [n <= order.index(scope) for n in range(3)]
