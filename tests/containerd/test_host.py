"""What the node brings to a container: its limits, and the three files below /etc."""

import os
import resource
from pathlib import Path

import pytest

from mill.containerd import host as host_module
from mill.containerd.cgroups import Cgroups
from mill.containerd.host import describe, make_folders, resolve_mounts, with_files, write_files
from mill.containerd.spec import OPEN_FILES_HARD_MOST, Host, User
from mill.errors import StartError
from mill.model import Mount, MountType, Network, Spec
from mill.tasks.ports import Attachment

HOST = Host("", "", "", "")


def written(folder: Path, spec: Spec | None = None) -> Host:
    write_files(folder, "t-1", spec or Spec("x", "t"), "10.0.0.7")
    return with_files(HOST, folder, "/mill/n/t-1")


def test_the_host_is_described(tmp_path: Path) -> None:
    host = describe("x86_64", Cgroups(v2=True, root=tmp_path))
    assert host.cgroup_v2 is True
    assert host.swap_limit is True
    assert 0 < host.open_files_hard <= OPEN_FILES_HARD_MOST
    assert 0 <= host.oom_score_adj <= 1000
    assert describe("x86_64", Cgroups(v2=False, root=tmp_path)).swap_limit is False


@pytest.mark.parametrize(("hard", "given_on"), [
    (100, 100), (OPEN_FILES_HARD_MOST * 4, OPEN_FILES_HARD_MOST), (resource.RLIM_INFINITY, OPEN_FILES_HARD_MOST),
])  # fmt: skip
def test_a_task_gets_no_more_files_than_milld_may_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hard: int, given_on: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, hard))
    assert describe("x86_64", Cgroups(v2=True, root=tmp_path)).open_files_hard == given_on


def test_static_inits_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("tini", "catatonit"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe("x86_64", Cgroups(v2=True, root=tmp_path)).init == str(tmp_path / "catatonit")
    monkeypatch.setenv("PATH", "/nowhere")
    assert describe("x86_64", Cgroups(v2=True, root=tmp_path)).init is None


def test_the_files_name_the_task(tmp_path: Path) -> None:
    folder = tmp_path / "tasks" / "t-1"
    host = written(folder, Spec("x", "t", network=Network.NONE))
    assert host.cgroup_path == "/mill/n/t-1"
    assert (
        Path(host.hosts_file).read_text()
        == "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\tt-1\n"
    )
    assert Path(host.hostname_file).read_text() == "t-1\n"
    assert Path(host.resolv_file).read_text() == Path("/etc/resolv.conf").read_text()
    assert {Path(file).parent for file in (host.hosts_file, host.resolv_file, host.hostname_file)} == {folder}


def test_on_the_hosts_network_the_hosts_own_names_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"/etc/hosts": "127.0.0.1 localhost\n10.0.0.9 db\n\n\n"}
    monkeypatch.setattr(host_module, "_read", lambda path: texts.get(path, ""))
    host = written(tmp_path, Spec("x", "t", network=Network.HOST))
    assert Path(host.hosts_file).read_text() == "127.0.0.1 localhost\n10.0.0.9 db\n10.0.0.7\tt-1\n"
    assert Path(host.resolv_file).read_text() == ""


@pytest.mark.parametrize("nameserver", [None, "10.99.0.1"])
def test_in_the_mesh_the_files_name_the_task_s_own_address(tmp_path: Path, nameserver: str | None) -> None:
    write_files(tmp_path, "t-1", Spec("x", "t"), "10.0.0.7", Attachment("10.99.0.2", "/ns", nameserver))
    assert (tmp_path / "hosts").read_text().endswith("\n10.99.0.2\tt-1\n")
    assert (tmp_path / "address").read_text() == "10.99.0.2\n"
    hosts_own = Path("/etc/resolv.conf").read_text()
    resolv = (tmp_path / "resolv.conf").read_text()
    assert resolv == (f"nameserver {nameserver}\n" if nameserver else hosts_own)


def test_everybody_in_the_container_can_read_them(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        host = written(tmp_path)
    finally:
        os.umask(before)
    for file in (host.hosts_file, host.resolv_file, host.hostname_file):
        assert Path(file).stat().st_mode & 0o777 == 0o644


def test_writing_again_is_the_same(tmp_path: Path) -> None:
    """A start is tried again when containerd went away in the middle of it."""
    first = written(tmp_path)
    assert written(tmp_path) == first


# -- mounts ---------------------------------------------------------------------------------------------------------


def resolved(source: Path, *allowed: Path) -> str | None:
    [mount] = resolve_mounts((Mount("/x", source=str(source)),), tuple(map(str, allowed)))
    return mount.source


def test_a_bind_is_of_what_its_source_really_is(tmp_path: Path) -> None:
    inside = tmp_path / "allowed" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "allowed" / "link").symlink_to("inside")
    (tmp_path / "alias").symlink_to(tmp_path / "allowed")
    allowed = tmp_path / "allowed"
    assert resolved(inside, allowed) == str(inside)
    assert resolved(allowed / "link", Path("/nowhere"), allowed) == str(inside)
    assert resolved(tmp_path / "alias" / "inside", tmp_path / "alias") == str(inside)
    assert resolved(allowed, allowed) == str(allowed)


def test_a_tmpfs_has_no_source_to_judge() -> None:
    mounts = (Mount("/a", MountType.TMPFS),)
    assert resolve_mounts(mounts, ()) == mounts


@pytest.mark.parametrize("source", ["link", "up/..", "file/x", "loop", "missing", "../secret", "../allowed2"])
def test_a_bind_leads_to_nothing_else(tmp_path: Path, source: str) -> None:
    """A link that an earlier task put there must not open the rest of the host."""
    allowed = tmp_path / "allowed"
    for folder in ("allowed/up", "secret", "allowed2"):
        (tmp_path / folder).mkdir(parents=True)
    (allowed / "link").symlink_to("/etc")
    (allowed / "loop").symlink_to("loop")
    (allowed / "file").write_text("")
    with pytest.raises(StartError) as caught:
        resolved(Path(f"{allowed}/{source}") if source != "up/.." else allowed / "link" / "..", allowed)
    assert caught.value.detail in {"runtime", "permission"}
    assert str(caught.value).startswith("the bind mount's source")


def test_folders_of_volumes_are_the_user_s_and_those_of_the_image_are_left_alone(tmp_path: Path) -> None:
    new = tmp_path / "volumes/0"
    make_folders([(str(new), "/new"), ("rootfs/data", "/data")], User(os.geteuid(), os.getegid()))
    make_folders([(str(new), "/new")], User(os.geteuid(), os.getegid()))
    assert (new.stat().st_uid, new.stat().st_mode & 0o777) == (os.geteuid(), 0o755)
    assert [path.name for path in tmp_path.iterdir()] == ["volumes"]
