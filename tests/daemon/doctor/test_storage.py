"""Judging the data directory, its room and its filesystem; overlayfs by a true mount that nobody else sees."""

from pathlib import Path

import pytest

from mill.config import Config
from mill.containerd.session import Features
from mill.daemon.doctor import storage
from mill.daemon.doctor.host import Containerd, Host
from mill.daemon.doctor.storage import Room, filesystem_of, judge_room
from mill.units import GIB, MIB

MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:40 / /srv rw - xfs /dev/vdb rw
31 30 0:41 / /srv/my\\040data rw - nfs4 host:/x rw
"""


@pytest.mark.parametrize(("path", "found"), [
    ("/var/lib/mill", ("ext4", "/")),
    ("/srv", ("xfs", "/srv")),
    ("/srvs", ("ext4", "/")),
    ("/srv/my data/mill", ("nfs4", "/srv/my data")),
])  # fmt: skip
def test_the_filesystem_of_a_path(path: str, found: tuple[str, str]) -> None:
    assert filesystem_of(Path(path), MOUNTS) == found


@pytest.mark.parametrize(("kind", "levels"), [
    ("ext4", []), ("btrfs", []), ("nfs4", ["warning"]), ("fuse.sshfs", ["warning"]), ("tmpfs", ["warning"]),
])  # fmt: skip
def test_filesystems_that_do_not_suit(kind: str, levels: list[str]) -> None:
    assert [str(one.level) for one in storage.judge_filesystem(kind, "/srv")] == levels


@pytest.mark.parametrize(("room", "levels"), [
    (Room(100 * GIB, 10**7, 10**6), ["ok"]),
    (Room(100 * GIB, 0, 0), ["ok"]),
    (Room(GIB, 10**7, 10**6), ["warning"]),
    (Room(10 * MIB, 10**7, 10**6), ["problem"]),
    (Room(100 * GIB, 10**7, 10_000), ["warning"]),
    (Room(0, 10**7, 5), ["problem", "problem"]),
])  # fmt: skip
def test_room(room: Room, levels: list[str]) -> None:
    assert [str(one.level) for one in judge_room(room, "/d")] == levels


def test_a_directory_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path) -> None:
    host = Host(Config(data_dir=tmp_path / "a" / "b"))
    assert host.nearest == tmp_path
    (finding,) = storage.data_dir(host)
    assert finding.level == "ok"
    assert "made at the first start" in finding.found
    assert list(tmp_path.iterdir()) == []


def test_a_file_and_an_open_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (finding,) = storage.data_dir(Host(Config(data_dir=tmp_path / "file")))
    assert (finding.level, "not a directory" in finding.found) == ("problem", True)
    tmp_path.chmod(0o755)
    found = {one.level: one for one in storage.data_dir(Host(Config(data_dir=tmp_path)))}
    assert "mode 0755" in found["warning"].found  # type: ignore[index]  # a StrEnum is its text
    assert found["warning"].advice == (f"chmod 700 {tmp_path}",)  # type: ignore[index]  # as above


def own(folder: Path, features: Features | None = None) -> Host:
    return Host(Config(data_dir=folder), containerd=Containerd("/s", embedded=True, features=features))


def test_overlayfs_is_tried_and_nothing_of_it_stays(tmp_path: Path) -> None:
    """In a directory whose name would break mount options, had they held it."""
    folder = tmp_path / "a,b:c"
    folder.mkdir()
    before = Path("/proc/self/mountinfo").read_text()
    (finding,) = storage.overlay(own(folder))
    assert finding.level == "ok"
    assert list(folder.iterdir()) == []
    assert "mill-doctor" not in Path("/proc/self/mountinfo").read_text()
    assert "mill-doctor" not in before


def test_where_overlayfs_cannot_be_the_native_snapshotter_is_announced() -> None:
    finding = storage.judge_overlay("Invalid argument")
    assert finding.level == "warning"
    assert "native snapshotter" in finding.found


def test_the_word_of_a_containerd_that_answers_counts(tmp_path: Path) -> None:
    (finding,) = storage.overlay(own(tmp_path, Features("2.0.0", frozenset())))
    assert finding.level == "warning"
    assert "no overlayfs snapshotter" in finding.found
