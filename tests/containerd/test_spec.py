"""The runtime spec: ENTRYPOINT and CMD, the environment, limits, and the defaults that keep a task in its container."""

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.containerd import spec as spec_module
from mill.containerd.oci import ImageConfig
from mill.containerd.spec import (
    CAPABILITIES,
    CPU_PERIOD_US,
    DEFAULT_PATH,
    INIT_TARGET,
    LEAST_QUOTA_US,
    Host,
    User,
    arguments,
    build,
    cpu_quota_us,
    environment,
)
from mill.errors import StartError
from mill.model import Mount, MountType, Network, Size, Spec

IMAGE = ImageConfig("amd64", "linux", (), entrypoint=("/entry", "-e"), cmd=("cmd", "-c"), workdir="/work")
ROOT = User()
HOST = Host("/mill/n/t", "/d/hosts", "/d/resolv.conf", "/d/hostname")


def a_spec(**fields: Any) -> Spec:
    return attrs.evolve(Spec("busybox", "t"), **fields)


def built(
    spec: Spec | None = None, *, host: Host = HOST, user: User = ROOT, image: ImageConfig = IMAGE
) -> dict[str, Any]:
    return build("t-0001", spec or a_spec(), image, user, ("A=b",), host)


# -- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "args", "entrypoint", "cmd", "run"), [
    (None, None, ("e",), ("c",), ("e", "c")),
    (None, None, (), ("c", "d"), ("c", "d")),
    (None, None, ("e",), (), ("e",)),
    (None, ("a",), ("e",), ("c",), ("e", "a")),
    (None, (), ("e",), ("c",), ("e",)),
    (None, ("a",), (), ("c",), ("a",)),
    (("x",), None, ("e",), ("c",), ("x",)),
    (("x", "y"), ("a",), ("e",), ("c",), ("x", "y", "a")),
    (("x",), (), (), (), ("x",)),
    (None, None, ("",), ("c",), ("c",)),
    (None, ("a",), ("",), ("c",), ("a",)),
    (("x",), None, ("",), ("c",), ("x",)),
])  # fmt: skip
def test_entrypoint_and_cmd_are_merged_as_docker_merges_them(
    command: tuple[str, ...] | None,
    args: tuple[str, ...] | None,
    entrypoint: tuple[str, ...],
    cmd: tuple[str, ...],
    run: tuple[str, ...],
) -> None:
    image = attrs.evolve(IMAGE, entrypoint=entrypoint, cmd=cmd)
    assert arguments(a_spec(command=command, args=args), image) == run


@pytest.mark.parametrize("args", [None, ()])
def test_nothing_to_run_is_a_start_error(args: tuple[str, ...] | None) -> None:
    with pytest.raises(StartError, match="--command") as caught:
        arguments(a_spec(args=args), attrs.evolve(IMAGE, entrypoint=(), cmd=("c",) if args == () else ()))
    assert caught.value.detail == "command_not_found"


# -- environment ----------------------------------------------------------------------------------------------------


def test_later_sources_of_a_variable_win() -> None:
    image = attrs.evolve(IMAGE, env=("PATH=/p", "A=image", "B=image", "EMPTY=", "BARE", "=odd", "C=x=y"))
    env = dict(
        entry.split("=", 1)
        for entry in environment(
            "t-1", image, User(home="/home/app"), {"B": "mill", "PORT": "1"}, {"PORT": "2", "D": "é\n"}
        )
    )
    assert env == {
        "PATH": "/p", "HOSTNAME": "t-1", "HOME": "/home/app", "A": "image", "B": "mill", "EMPTY": "", "C": "x=y",
        "PORT": "2", "D": "é\n",
    }  # fmt: skip


def test_an_image_without_a_path_gets_one() -> None:
    assert f"PATH={DEFAULT_PATH}" in environment("t-1", IMAGE, User(), {}, {})


@given(st.dictionaries(st.text(st.characters(blacklist_characters="=\0"), min_size=1), st.text()))
def test_every_name_appears_once(asked: dict[str, str]) -> None:
    env = environment("t-1", attrs.evolve(IMAGE, env=tuple(f"{k}=image" for k in asked)), User(), {}, asked)
    names = [entry.split("=", 1)[0] for entry in env]
    assert len(names) == len(set(names))
    for name, value in asked.items():
        assert f"{name}={value}" in env


# -- the whole ------------------------------------------------------------------------------------------------------


def test_it_is_plain_json() -> None:
    said = built(
        a_spec(mounts=(Mount("/a", MountType.TMPFS, size=Size(5)),)),
        host=attrs.evolve(HOST, seccomp={"x": 1}),
    )
    assert json.loads(json.dumps(said)) == said


def test_the_process_is_kept_small() -> None:
    process = built(user=User(1000, 1001, (5, 6), "/home/app"))["process"]
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [1001, 5, 6], "umask": 0o022}
    assert process["noNewPrivileges"] is True
    assert process["terminal"] is False
    assert process["capabilities"] == {"bounding": list(CAPABILITIES)}
    of_root = built(user=ROOT)["process"]["capabilities"]
    assert of_root == {kind: list(CAPABILITIES) for kind in ("bounding", "effective", "permitted")}
    assert len(CAPABILITIES) == 14
    assert not {
        "CAP_SYS_ADMIN",
        "CAP_NET_ADMIN",
        "CAP_SYS_PTRACE",
        "CAP_SYS_MODULE",
        "CAP_DAC_READ_SEARCH",
    } & set(CAPABILITIES)
    assert process["env"] == ["A=b"]


@pytest.mark.parametrize(
    ("asked", "image", "cwd"), [(None, "/work", "/work"), ("/own", "/work", "/own"), (None, "", "/")]
)
def test_the_working_directory(asked: str | None, image: str, cwd: str) -> None:
    assert built(a_spec(workdir=asked), image=attrs.evolve(IMAGE, workdir=image))["process"]["cwd"] == cwd


def test_an_image_with_a_relative_working_directory_is_told_so() -> None:
    with pytest.raises(StartError, match="'app' is not absolute: give one with --workdir"):
        built(image=attrs.evolve(IMAGE, workdir="app"))


@pytest.mark.parametrize(("hard", "soft"), [(524288, 1024), (1024, 1024), (512, 512)])
def test_open_files_stay_within_what_the_host_has(hard: int, soft: int) -> None:
    assert built(host=attrs.evolve(HOST, open_files_hard=hard))["process"]["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}
    ]


@pytest.mark.parametrize(("network", "v2", "own"), [
    (Network.HOST, False, {"pid", "ipc", "uts", "mount"}),
    (Network.NONE, False, {"pid", "ipc", "uts", "mount", "network"}),
    (Network.HOST, True, {"pid", "ipc", "uts", "mount", "cgroup"}),
    (Network.NONE, True, {"pid", "ipc", "uts", "mount", "network", "cgroup"}),
])  # fmt: skip
def test_namespaces(network: Network, v2: bool, own: set[str]) -> None:  # noqa: FBT001 -- a table's column
    linux = built(a_spec(network=network), host=attrs.evolve(HOST, cgroup_v2=v2))["linux"]
    assert {one["type"] for one in linux["namespaces"]} == own
    assert len(linux["namespaces"]) == len(own)


def test_a_task_in_the_mesh_enters_the_namespace_that_was_made_for_it() -> None:
    host = attrs.evolve(HOST, network_namespace="/proc/1/fd/9")
    linux = built(a_spec(network=Network.MESH), host=host)["linux"]
    assert {"type": "network", "path": "/proc/1/fd/9"} in linux["namespaces"]
    assert linux["sysctl"]["net.ipv4.ip_unprivileged_port_start"] == "0"


def test_only_a_network_of_its_own_is_tuned() -> None:
    assert built(a_spec(network=Network.NONE))["linux"]["sysctl"] == {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 2147483647",
    }
    assert "sysctl" not in built(a_spec(network=Network.HOST))["linux"]


def test_memory_is_a_limit_with_swap_only_where_it_can_be_set() -> None:
    spec = a_spec(memory=Size(64 * 1024**2))
    assert built(spec)["linux"]["resources"]["memory"] == {"limit": 64 * 1024**2, "swap": 64 * 1024**2}
    bare = attrs.evolve(HOST, swap_limit=False)
    assert built(spec, host=bare)["linux"]["resources"]["memory"] == {"limit": 64 * 1024**2}


@pytest.mark.parametrize(("cpu", "shares"), [(1.0, 1024), (0.25, 256), (0.01, 10), (0.001, 2), (64.0, 65536)])
def test_cpu_shares_follow_the_reservation(cpu: float, shares: int) -> None:
    resources = built(a_spec(cpu=cpu))["linux"]["resources"]
    assert resources["cpu"] == {"shares": shares}
    assert resources["pids"]["limit"] == 4096


@given(st.floats(0.01, 1024))
def test_the_quota_is_the_share_of_a_period_and_never_below_the_kernels_least(cpu: float) -> None:
    quota = cpu_quota_us(cpu)
    assert quota >= LEAST_QUOTA_US
    assert quota == pytest.approx(cpu * CPU_PERIOD_US, abs=0.5) or quota == LEAST_QUOTA_US


def test_devices_are_denied_but_for_dockers_few() -> None:
    rules = built()["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    usable = {(one["major"], one.get("minor")) for one in rules[1:] if "r" in one["access"]}
    assert usable == {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None)}
    assert all(one["access"] == "m" for one in rules[1:] if "major" not in one)


def test_paths_of_the_kernel_are_masked() -> None:
    linux = built()["linux"]
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/timer_list"} <= set(linux["maskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(linux["readonlyPaths"])
    assert "seccomp" not in linux
    assert built(host=attrs.evolve(HOST, seccomp={"a": 1}))["linux"]["seccomp"] == {"a": 1}
    assert linux["cgroupsPath"] == "/mill/n/t"


def test_annotations_are_the_host_s_alone() -> None:
    assert "annotations" not in built()
    assert built(host=attrs.evolve(HOST, annotations={"a": "b"}))["annotations"] == {"a": "b"}


def mounts(spec: Spec, host: Host = HOST) -> dict[str, dict[str, Any]]:
    listed = built(spec, host=host)["mounts"]
    assert len({one["destination"] for one in listed}) == len(listed), "mounted over"
    return {one["destination"]: one for one in listed}


def test_the_usual_mounts_are_there_and_harmless() -> None:
    usual = mounts(a_spec())
    for target in ("/proc", "/sys", "/dev/shm", "/dev/mqueue", "/sys/fs/cgroup"):
        assert {"nosuid", "noexec", "nodev"} <= set(usual[target]["options"])
    assert "ro" in usual["/sys"]["options"]
    assert "ro" in usual["/sys/fs/cgroup"]["options"]
    for target, source in (
        ("/etc/hosts", "/d/hosts"),
        ("/etc/resolv.conf", "/d/resolv.conf"),
        ("/etc/hostname", "/d/hostname"),
    ):
        assert usual[target] == {
            "destination": target,
            "type": "bind",
            "source": source,
            "options": ["rbind", "rprivate", "rw"],
        }


def test_mounts_that_were_asked_for_come_last_and_win() -> None:
    asked = (
        Mount("/data", source="/host/data", read_only=True),
        Mount("/scratch", MountType.TMPFS, size=Size(1024)),
        Mount("/tmp", MountType.TMPFS, read_only=True),
        Mount("/etc/hosts/", source="/host/hosts"),
    )
    listed = built(a_spec(mounts=asked))["mounts"]
    assert [one["destination"] for one in listed[-4:]] == ["/data", "/scratch", "/tmp", "/etc/hosts/"]
    assert listed[-4]["options"] == ["rbind", "rprivate", "ro"]
    assert listed[-3]["options"] == ["nosuid", "nodev", "noexec", "mode=1777", "rw", "size=1024"]
    assert "ro" in listed[-2]["options"]
    assert "/d/hosts" not in {one["source"] for one in listed}


def test_an_init_is_put_before_the_program() -> None:
    with_init = attrs.evolve(HOST, init="/usr/bin/tini-static")
    said = built(a_spec(init=True), host=with_init)
    assert said["process"]["args"] == [INIT_TARGET, "--", "/entry", "-e", "cmd", "-c"]
    assert mounts(a_spec(init=True), with_init)[INIT_TARGET]["options"][-1] == "ro"
    assert INIT_TARGET not in mounts(a_spec(), with_init)
    with pytest.raises(StartError, match="install tini") as caught:
        built(a_spec(init=True))
    assert caught.value.detail == "runtime"


def test_a_read_only_root() -> None:
    assert built()["root"] == {"path": "rootfs", "readonly": False}
    assert built(a_spec(read_only=True))["root"]["readonly"] is True


def test_the_score_is_always_said() -> None:
    """Unset, a container inherits the shim's, which systemd may have set to -999."""
    assert built()["process"]["oomScoreAdj"] == 0
    assert built(host=attrs.evolve(HOST, oom_score_adj=7))["process"]["oomScoreAdj"] == 7


def test_nothing_is_shared_between_two_specs() -> None:
    first, second = built(), built()
    first["linux"]["maskedPaths"].clear()
    first["mounts"].clear()
    first["process"]["capabilities"]["bounding"].clear()
    assert second == built()
    assert spec_module._MASKED
