"""Tokens: made once, readable by root alone, kept and compared as hashes."""

import os
import stat
import time
from pathlib import Path

import pytest

from mill.errors import SetupError
from mill.security.tokens import Tokens, hash_of, read_or_make


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


def test_the_holder_is_named() -> None:
    known = Tokens({"admin": hash_of("one"), "ci": hash_of("two")})
    assert [known.who(token) for token in ("one", "two", "three", "", "ONE", "one ")] == [
        "admin",
        "ci",
        None,
        None,
        None,
        None,
    ]


@pytest.mark.parametrize("token", ["\xff", "💥", "x" * 1_000_000, hash_of("one")])
def test_an_odd_token_is_nobodys(token: str) -> None:
    assert Tokens({"admin": hash_of("one")}).who(token) is None


def test_nothing_of_a_token_is_kept() -> None:
    assert "secret" not in repr(Tokens({"admin": hash_of("secret")}))


def test_the_answer_takes_no_longer_for_a_token_that_begins_right() -> None:
    """Not by much, that is: what is compared are hashes."""
    known = Tokens({"admin": hash_of("a" * 43)})

    def best_s(token: str) -> float:
        times = []
        for _ in range(200):
            began = time.perf_counter()
            known.who(token)
            times.append(time.perf_counter() - began)
        return min(times)

    right, wrong = best_s("a" * 42 + "b"), best_s("b" * 43)
    assert right < wrong * 3
