"""What a host has left, on real disks of a few megabytes and under a real limit of descriptors."""

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from mill.daemon.room import FRESH_S, LEAST_FREE_FILES, SPARE_DESCRIPTORS, TASK_DESCRIPTORS, Room
from mill.errors import NoSpace, Unavailable
from mill.units import MIB


@attrs.define
class Clock:
    at_s: float = 100.0

    def boottime(self) -> float:
        return self.at_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """8 MiB, and a few files more than the least."""
    options = f"size={8 * MIB},nr_inodes={LEAST_FREE_FILES + 10}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "mill-test", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_disk_that_fills_up_refuses_and_accepts_again_within_a_second(disk: Path, clock: Clock) -> None:
    room = Room(disk, tuple, clock.boottime)
    room.check(0)
    (disk / "filler").write_bytes(bytes(7 * MIB))
    room.check(0)  # the look before still counts
    clock.at_s += FRESH_S
    with pytest.raises(NoSpace, match=r"the data directory .* is full"):
        room.check(0)
    (disk / "filler").unlink()
    clock.at_s += FRESH_S
    room.check(0)


def test_a_disk_without_free_inodes_is_full_too(disk: Path, clock: Clock) -> None:
    for i in range(20):
        (disk / str(i)).touch()
    with pytest.raises(NoSpace, match="no more files"):
        Room(disk, tuple, clock.boottime).check(0)


def test_containerds_stores_count_and_one_that_cannot_be_seen_does_not(
    disk: Path, tmp_path_factory: pytest.TempPathFactory, clock: Clock
) -> None:
    (disk / "filler").write_bytes(bytes(7 * MIB))
    elsewhere = tmp_path_factory.mktemp("data")
    Room(elsewhere, lambda: ["/no/such/store"], clock.boottime).check(0)
    with pytest.raises(NoSpace, match="containerd's store"):
        Room(elsewhere, lambda: ["/no/such/store", str(disk)], clock.boottime).check(0)


def test_a_read_only_directory_is_told_as_such(disk: Path, clock: Clock) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(NoSpace, match="read-only"):
        Room(disk, tuple, clock.boottime).check(0)


def test_descriptors_are_kept_for_those_that_are_starting(tmp_path: Path, clock: Clock) -> None:
    room = Room(tmp_path, tuple, clock.boottime)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (lowest + SPARE_DESCRIPTORS + 2 * TASK_DESCRIPTORS, before[1])
        )
        room.check(1)
        with pytest.raises(Unavailable, match="file descriptors"):
            room.check(2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
