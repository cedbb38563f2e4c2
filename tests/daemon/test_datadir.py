"""The data directory: one milld at a time, one identity for good, and no trace of a start that failed."""

import json
import os
import stat
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mill.daemon import datadir
from mill.daemon.datadir import claimed, node_id, publish_api, write_whole
from mill.errors import SetupError

HOLD = """
import sys
from pathlib import Path
from mill.daemon.datadir import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_it_is_made_for_root_alone_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "var" / "lib" / "mill"
    with claimed(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert (path / datadir.LOCK_NAME).read_text() == f"{os.getpid()}\n"
        (path / "mill.db").touch()
    assert (path / "mill.db").exists()
    with claimed(path):
        pass


def test_a_second_milld_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with held_by_another(path) as other:
        with (
            pytest.raises(
                SetupError,
                match=rf"another milld \(pid {other.pid}\) runs on {path}: stop it, or .*--data-dir",
            ),
            claimed(path),
        ):
            pytest.fail("two have it")
        assert (path / datadir.LOCK_NAME).exists(), "the loser removes nothing"
        other.kill()
        other.wait()
        with claimed(path):
            assert (path / datadir.LOCK_NAME).read_text() == f"{os.getpid()}\n"


def test_a_pid_longer_than_ours_is_not_left_over(tmp_path: Path) -> None:
    (tmp_path / datadir.LOCK_NAME).write_text("99999999999999\n")
    with claimed(tmp_path):
        assert (tmp_path / datadir.LOCK_NAME).read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize(
    "error", [SetupError("no port"), KeyboardInterrupt(), ExceptionGroup("g", [SetupError("x")])]
)
def test_a_start_that_fails_leaves_no_directory(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "d"
    with pytest.raises(type(error)), claimed(path):
        raise error
    assert not path.exists()


def test_what_was_there_or_was_kept_stays(tmp_path: Path) -> None:
    empty, kept = tmp_path / "empty", tmp_path / "kept"
    empty.mkdir()
    with pytest.raises(SetupError), claimed(empty):
        raise SetupError("no")
    assert empty.is_dir()
    with claimed(kept):
        (kept / "mill.db").touch()
    assert (kept / "mill.db").exists()


def test_many_at_once_never_have_it_together(tmp_path: Path) -> None:
    """Also while its lock file comes and goes, as every holder here leaves it empty."""
    inside, most, turns = 0, 0, 0

    def contend() -> None:
        nonlocal inside, most, turns
        for _ in range(100):
            try:
                with claimed(tmp_path / "d"):
                    inside += 1
                    most = max(most, inside)
                    turns += 1
                    inside -= 1
            except SetupError:
                continue

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert turns > 0


@pytest.mark.parametrize("where", ["file", "file/below", "file/much/below"])
def test_a_file_in_the_way_is_one_line(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(SetupError, match=r"cannot use the data directory .*; choose another with --data-dir"),
        claimed(tmp_path / where),
    ):
        pytest.fail("there is no directory")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_system_that_cannot_be_written_is_one_line() -> None:
    with (
        pytest.raises(SetupError, match="cannot use the data directory /proc/mill"),
        claimed(Path("/proc/mill")),
    ):
        pytest.fail("there is no directory")


# -- identity -------------------------------------------------------------------------------------------------------


def test_a_node_keeps_its_id(tmp_path: Path) -> None:
    made = node_id(tmp_path)
    assert uuid.UUID(made).version == 4
    assert node_id(tmp_path) == made
    assert [file.name for file in tmp_path.iterdir()] == [datadir.NODE_NAME]


@pytest.mark.parametrize("content", [b"", b"node-1\n", b"\xff\xff", b"x" * 1000])
def test_an_id_that_is_none_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    """A new one would make strangers of all containers that run here."""
    (tmp_path / datadir.NODE_NAME).write_bytes(content)
    with pytest.raises(SetupError, match="holds no node id"):
        node_id(tmp_path)
    assert (tmp_path / datadir.NODE_NAME).read_bytes() == content


def test_the_api_is_published_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_api(tmp_path, "http://127.0.0.1:1", "PEM")
    publish_api(tmp_path, "http://127.0.0.1:4400", "PEM")
    assert (tmp_path / datadir.AUTHORITY_NAME).read_text() == "PEM"
    assert json.loads((tmp_path / datadir.API_NAME).read_text()) == {"address": "http://127.0.0.1:4400"}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SetupError, match="No space"):
        write_whole(tmp_path / datadir.API_NAME, "torn", mode=0o644)
    assert json.loads((tmp_path / datadir.API_NAME).read_text()) == {"address": "http://127.0.0.1:4400"}
