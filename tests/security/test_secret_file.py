"""`cluster.secret`: made once, for its owner alone, read strictly, never half written, never repeated in an error."""

import os
import stat
from pathlib import Path

import pytest

from mill.errors import SetupError
from mill.security.keys import Keyring, Secret
from mill.security.secret_file import MOST_FILE_BYTES, read_given, read_or_make, write

ONE, TWO = Secret(b"1" * 32), Secret(b"2" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cluster.secret"


def put(path: Path, content: bytes, mode: int = 0o600) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def test_the_first_start_makes_one_and_the_next_finds_it(path: Path) -> None:
    made = read_or_make(path)
    assert read_or_make(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == f"{made.used.text}\n"
    assert [file.name for file in path.parent.iterdir()] == ["cluster.secret"]


def test_no_two_clusters_have_the_same(tmp_path: Path) -> None:
    assert len({read_or_make(tmp_path / str(n)).used.key for n in range(20)}) == 20


def test_a_ring_is_kept_with_the_one_in_use_first(path: Path) -> None:
    ring = Keyring(ONE).install(TWO).use(TWO.key_id)
    write(path, ring)
    assert read_or_make(path) == ring
    assert path.read_text().splitlines() == [TWO.text, ONE.text, f"retired-{ONE.key_id.hex()}"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"\n", "is no cluster secret"),
        (ONE.text.encode()[:-1], "is no cluster secret"),
        (f"{ONE.text}\n\n{TWO.text}\n".encode(), "is no cluster secret"),
        (f"{ONE.text} \n".encode(), "is no cluster secret"),
        (ONE.text.replace("3131", "3132", 1).encode(), "a digit is wrong"),
        (f"{ONE.text}\n{ONE.text}\n".encode(), "twice"),
        (b"\xff", "is no cluster secret"),
        (b"retired-00000000\n", "is no cluster secret"),
        (f"{ONE.text}\nretired-0000000\n".encode(), "is no cluster secret"),
        (b"a" * (MOST_FILE_BYTES + 1), "longer than"),
        ("\n".join(Secret(bytes([n]) * 32).text for n in range(5)).encode(), "more than 4"),
    ],
)
def test_what_is_no_ring_is_one_line_without_the_secret(path: Path, content: bytes, told: str) -> None:
    put(path, content)
    with pytest.raises(SetupError, match=told) as caught:
        read_or_make(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert "3131" not in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_one_that_others_may_read_is_refused(path: Path, mode: int) -> None:
    put(path, ONE.text.encode(), mode)
    with pytest.raises(SetupError, match="chmod 600"):
        read_or_make(path)


def test_a_directory_in_the_way_is_one_line(path: Path) -> None:
    path.mkdir()
    with pytest.raises(SetupError, match="cannot read the cluster's secret"):
        read_or_make(path)


def test_a_crash_while_writing_leaves_the_ring_that_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, Keyring(ONE))

    def crash(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write(path, Keyring(TWO))
    monkeypatch.undo()
    assert read_or_make(path) == Keyring(ONE)
    write(path, Keyring(TWO))
    assert read_or_make(path) == Keyring(TWO)


def test_what_a_crash_left_open_to_others_is_not_written_into(path: Path) -> None:
    left = path.with_name("cluster.secret.new")
    put(left, b"", 0o666)
    with left.open("rb") as reader:
        write(path, Keyring(ONE))
        assert reader.read() == b""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# -- given to a new node --------------------------------------------------------------------------------------------


def test_a_new_node_takes_what_it_is_given_and_keeps_it(path: Path) -> None:
    ring = Keyring(ONE)
    assert read_or_make(path, ring) == ring
    assert read_or_make(path) == ring
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_or_make(path, ring) == ring  # said again at the next start


def test_a_node_does_not_change_its_cluster(path: Path) -> None:
    write(path, Keyring(ONE))
    with pytest.raises(SetupError, match="another secret") as caught:
        read_or_make(path, Keyring(TWO))
    for secret in (ONE, TWO):
        assert secret.key_id.hex() in str(caught.value)
        assert secret.key.hex() not in str(caught.value)
    assert read_or_make(path) == Keyring(ONE)


def test_after_a_change_of_the_secret_the_old_one_may_still_be_given(path: Path) -> None:
    """It stands in the options of a service, which starts its node as before."""
    changed = Keyring(ONE).install(TWO).use(TWO.key_id)
    for ring in (changed, changed.remove(ONE.key_id)):
        write(path, ring)
        assert read_or_make(path, Keyring(ONE)) == ring
    with pytest.raises(SetupError, match="another secret"):
        read_or_make(path, Keyring(Secret(b"3" * 32)))


def test_it_is_given_by_a_file_or_by_the_environment(path: Path) -> None:
    put(path, f"{ONE.text}\n".encode(), 0o444)
    assert read_given(path, None) == read_given(None, f"{ONE.text}\n") == Keyring(ONE)
    assert read_given(None, None) is None
    with pytest.raises(SetupError, match="leave one of them out"):
        read_given(path, ONE.text)


@pytest.mark.parametrize("text", ["", "x", ONE.text[:-1], f"{ONE.text} {TWO.text}"])
def test_one_given_that_is_none_is_one_line(path: Path, text: str) -> None:
    with pytest.raises(SetupError, match=r"MILL_SECRET: is no cluster secret") as caught:
        read_given(None, text)
    assert "3131" not in str(caught.value)
    put(path, text.encode())
    with pytest.raises(SetupError, match=str(path)):
        read_given(path, None)
    with pytest.raises(SetupError, match="no such file"):
        read_given(path.with_name("none"), None)
