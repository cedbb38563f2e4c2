"""VOLUME of an image: which of its folders need a mount, and that none leads out of the image."""

import pytest

from mill.containerd.volumes import binds, names
from mill.model import Mount, MountType, Spec

FOUND = {"/data": "/data", "/via/inner": "/real/inner", "/new": None}


def a_spec(*targets: str, read_only: bool = False) -> Spec:
    mounts = tuple(Mount(target, MountType.TMPFS) for target in targets)
    return Spec("image", "t", mounts=mounts, read_only=read_only)


@pytest.mark.parametrize(("said", "meant"), [
    (("/data",), ("/data",)),
    (("data", "/data/", "//data", "/x/../data"), ("/data",)),
    (("/b/c", "/a", "/b"), ("/a", "/b", "/b/c")),
    (("/../../etc",), ("/etc",)),
    (("/", "", ".", "..", "/a/.."), ()),
    (("/sys/fs/cgroup", "/proc", "/dev/shm", "/system", "/devices"), ("/devices", "/system")),
    (("/a\0b", "/\ud800", "/ä"), ("/ä",)),
])  # fmt: skip
def test_what_an_image_may_call_a_volume(said: tuple[str, ...], meant: tuple[str, ...]) -> None:
    assert names(said) == meant


def test_only_a_missing_folder_needs_a_mount_where_the_root_is_writable() -> None:
    assert binds(FOUND, a_spec(), "/d/tasks/t") == (("/d/tasks/t/volumes/1", "/new"),)


def test_under_a_read_only_root_each_folder_is_bound_to_itself_by_its_true_path() -> None:
    assert binds(FOUND, a_spec(read_only=True), "/d") == (
        ("rootfs/data", "/data"), ("/d/volumes/1", "/new"), ("rootfs/real/inner", "/real/inner"),
    )  # fmt: skip


@pytest.mark.parametrize("target", ["/real/inner", "/via/inner", "/via/inner/"])
def test_a_mount_that_was_asked_for_takes_its_place(target: str) -> None:
    made = binds(FOUND, a_spec(target, "/new", read_only=True), "/d")
    assert made == (("rootfs/data", "/data"),)


@pytest.mark.parametrize("real", ["/", "/proc", "/sys/kernel", "/dev"])
def test_a_symlink_to_what_the_runtime_mounts_is_no_volume(real: str) -> None:
    assert binds({"/link": real}, a_spec(read_only=True), "/d") == ()
