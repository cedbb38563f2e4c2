"""A look into an image's files on real mounts; what an image may hold, it must not lead the look onto the host."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mill.containerd import rootfs
from mill.containerd.proto import types_pb2
from mill.containerd.rootfs import Looks, Seen, unmount
from mill.containerd.users import Accounts
from mill.errors import StartError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting is root's")


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    before = descriptors()
    yield
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert descriptors() == before


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- the listing itself is one of them, always


def layer(tmp_path: Path, name: str, **files: str) -> Path:
    etc = tmp_path / "layers" / name / "etc"
    etc.mkdir(parents=True)
    for file, text in files.items():
        (etc / file).write_text(text)
    return etc.parent


def overlay(tmp_path: Path, *lower: Path) -> types_pb2.Mount:
    """As containerd's overlayfs snapshotter gives it; the top layer first."""
    for name in ("upper", "work"):
        (tmp_path / name).mkdir(exist_ok=True)
    options = [
        f"workdir={tmp_path}/work",
        f"upperdir={tmp_path}/upper",
        f"lowerdir={':'.join(map(str, lower))}",
    ]
    return types_pb2.Mount(type="overlay", source="overlay", options=options)


def bind(source: Path) -> types_pb2.Mount:
    """As containerd's native snapshotter gives it."""
    return types_pb2.Mount(type="bind", source=str(source), options=["rbind", "rw"])


def look(tmp_path: Path, mount: types_pb2.Mount) -> Accounts:
    return seen(tmp_path, mount).accounts


def seen(tmp_path: Path, mount: types_pb2.Mount, *names: str) -> Seen:
    folder = tmp_path / "task" / "rootfs"
    found = rootfs.look([mount], folder, names)
    assert not folder.exists()
    return found


def test_an_overlay_is_seen_as_the_container_will_see_it(tmp_path: Path) -> None:
    low = layer(tmp_path, "low", passwd="low", group="kept")
    high = layer(tmp_path, "high", passwd="high")
    assert look(tmp_path, overlay(tmp_path, high, low)) == Accounts("high", "kept")


def test_a_bind_is_too(tmp_path: Path) -> None:
    root = layer(tmp_path, "root", passwd="p", group="g")
    assert look(tmp_path, bind(root)) == Accounts("p", "g")


def test_a_file_that_a_layer_removed_is_gone(tmp_path: Path) -> None:
    low, high = layer(tmp_path, "low", passwd="low"), layer(tmp_path, "high")
    os.mknod(high / "etc/passwd", stat.S_IFCHR, 0)  # a whiteout
    assert look(tmp_path, overlay(tmp_path, high, low)) == Accounts("", "")


@pytest.mark.parametrize("mount", [overlay, lambda _, root: bind(root)], ids=["overlay", "bind"])
@pytest.mark.parametrize(
    "target", ["/etc/shadow", "../../../../../../../../../../etc/shadow", "/proc/self/root/etc/shadow"]
)
def test_an_evil_link_leads_nowhere_but_into_the_image(tmp_path: Path, target: str, mount: object) -> None:
    root = layer(tmp_path, "root", shadow="the image's own")
    (root / "etc/passwd").symlink_to(target)
    (root / "etc/group").symlink_to("/etc/../../../etc/shadow")
    host = Path("/etc/shadow").read_text()
    found = look(tmp_path, mount(tmp_path, root))  # type: ignore[operator]  # one of two functions
    assert found.passwd in {"", "the image's own"}
    assert found.group == "the image's own"
    assert host not in found.passwd


@pytest.mark.parametrize("link", ["etc", "etc/passwd"])
def test_links_of_directories_and_in_circles(tmp_path: Path, link: str) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "real/passwd").write_text("real")
    if link == "etc":
        (root / "etc").symlink_to("/real")
        assert look(tmp_path, bind(root)) == Accounts("real", "")
    else:
        (root / "etc").mkdir()
        (root / link).symlink_to("passwd")
        assert look(tmp_path, bind(root)) == Accounts("", "")


def test_an_image_without_etc_has_no_accounts(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    assert look(tmp_path, bind(root)) == Accounts()
    (root / "etc").write_text("no directory")
    assert look(tmp_path, bind(root)) == Accounts()


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """Opening a device can have effects; a FIFO could hold us up."""
    root = layer(tmp_path, "root")
    os.mkfifo(root / "etc/passwd")
    os.mknod(root / "etc/group", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero
    assert look(tmp_path, bind(root)) == Accounts()
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").mkdir()
    assert look(tmp_path, bind(root)) == Accounts()


def test_a_huge_file_and_odd_bytes_are_bounded(tmp_path: Path) -> None:
    root = layer(tmp_path, "root", passwd="x" * (rootfs._FILE_BYTES + 10))
    (root / "etc/group").write_bytes(b"a\xffb")
    assert look(tmp_path, bind(root)) == Accounts("x" * rootfs._FILE_BYTES, "a\ufffdb")


@pytest.mark.parametrize("count", [2, 60, 127])
def test_an_image_of_many_layers(tmp_path: Path, count: int) -> None:
    """mount(2) takes a page of options, which some forty layers fill; Docker allows 127."""
    long = tmp_path / ("d" * 60)
    layers = [layer(long, f"{n}/fs", **({"passwd": "lowest"} if n == 0 else {})) for n in range(count)]
    assert look(tmp_path, overlay(tmp_path, *reversed(layers))) == Accounts("lowest", "")


def test_a_mount_that_fails_is_a_start_error_and_leaves_nothing(tmp_path: Path) -> None:
    missing = overlay(tmp_path, tmp_path / "missing")
    with pytest.raises(StartError, match="cannot look into the image's files: No such file or directory"):
        rootfs.look([missing], tmp_path / "task")
    assert not (tmp_path / "task").exists()
    root = layer(tmp_path, "root")
    with pytest.raises(StartError, match="No such"):
        rootfs.look([bind(root), missing], tmp_path / "task")
    assert not (tmp_path / "task").exists()


def test_unmounting_what_is_not_mounted_is_nothing(tmp_path: Path) -> None:
    unmount(tmp_path)
    unmount(tmp_path / "missing")


@pytest.mark.parametrize("kind", ["bind", "overlay"])
def test_folders_are_told_by_their_true_paths_and_never_by_the_host_s(tmp_path: Path, kind: str) -> None:
    root = layer(tmp_path, "root")
    for name in ("data/deep", "real"):
        (root / name).mkdir(parents=True)
    for name, target in {
        "via": "real", "out": "../../../../../../etc", "abs": "/data", "nowhere": "/not/there", "circle": "circle", "up": "/",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    (root / "file").write_text("x")
    names = (
        "/data/deep",
        "/via",
        "/out",
        "/abs/deep",
        "/nowhere",
        "/circle",
        "/up",
        "/file",
        "/file/below",
        "/new/one",
    )
    mount = bind(root) if kind == "bind" else overlay(tmp_path, root)
    assert seen(tmp_path, mount, *names).folders == {
        "/data/deep": "/data/deep", "/via": "/real", "/out": "/etc", "/abs/deep": "/data/deep", "/nowhere": None,
        "/circle": None, "/up": "/", "/file/below": None, "/new/one": None,
    }  # fmt: skip


def test_looks_are_kept_by_layers_and_names_and_not_for_ever() -> None:
    looks = Looks()
    first, second = Seen(Accounts("first")), Seen(Accounts("second"))
    looks.keep(("chain", ()), first)
    looks.keep(("chain", ("/data",)), second)
    assert (looks.seen["chain", ()], looks.seen["chain", ("/data",)]) == (first, second)
    for number in range(rootfs._KEPT):
        looks.keep((f"chain {number}", ()), first)
    assert ("chain", ()) not in looks.seen
    assert len(looks.seen) == rootfs._KEPT
