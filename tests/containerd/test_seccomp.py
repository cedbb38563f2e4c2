"""The seccomp filter: what is kept of a profile, and where one is looked for."""

import json
from pathlib import Path
from typing import Any

import pytest

from mill.containerd.seccomp import PROFILE_PATHS, load, narrow
from mill.containerd.spec import CAPABILITIES


def rule(*names: str, **more: Any) -> dict[str, Any]:
    return {
        "names": list(names),
        "action": "SCMP_ACT_ALLOW",
        "args": [],
        "comment": "",
        "includes": {},
        "excludes": {},
        **more,
    }


def profile(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "archMap": [], "syscalls": list(rules), **more}


def names(narrowed: dict[str, Any]) -> list[str]:
    return [name for one in narrowed["syscalls"] for name in one["names"]]


@pytest.mark.parametrize(("condition", "kept"), [
    ({}, True),
    ({"includes": None, "excludes": None}, True),
    ({"includes": {"caps": ["CAP_CHOWN"]}}, True),
    ({"includes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}}, False),
    ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
    ({"excludes": {"caps": ["CAP_CHOWN"]}}, False),
    ({"includes": {"arches": ["amd64", "x32"]}}, True),
    ({"includes": {"arches": ["s390"]}}, False),
    ({"excludes": {"arches": ["s390"]}}, True),
    ({"excludes": {"arches": ["amd64"]}}, False),
    ({"includes": {"minKernel": "4.8"}}, True),
    ({"includes": {"caps": ["CAP_CHOWN"], "arches": ["arm"]}}, False),
])  # fmt: skip
def test_rules_for_others_are_left_out(condition: dict[str, Any], kept: bool) -> None:  # noqa: FBT001 -- a table's column
    assert (names(narrow(profile(rule("open", **condition)), "amd64", ["CAP_CHOWN"])) == ["open"]) == kept


def test_only_what_oci_knows_is_passed_on() -> None:
    argument = {"index": 0, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ"}
    said = profile(
        rule("a", errnoRet=38, errno="ENOSYS", args=[argument]),
        rule("b"),
        defaultErrnoRet=1,
        defaultErrno="EPERM",
    )
    assert narrow(said, "amd64", []) == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [argument], "errnoRet": 38},
            {"names": ["b"], "action": "SCMP_ACT_ALLOW"},
        ],
    }


def test_an_errno_of_zero_is_kept() -> None:
    assert narrow(profile(rule("a", errnoRet=0)), "amd64", [])["syscalls"][0]["errnoRet"] == 0


def test_an_architecture_without_a_name_is_left_to_the_runtime() -> None:
    assert "architectures" not in narrow(profile(), "vax", [])


def test_the_installed_profile_allows_work_and_forbids_the_hosts_own() -> None:
    path = next((path for path in PROFILE_PATHS if path.exists()), None)
    if path is None:
        pytest.skip("no profile is installed here")
    allowed = [one for one in load("amd64", CAPABILITIES)["syscalls"] if one["action"] == "SCMP_ACT_ALLOW"]  # type: ignore[index]  # it is there
    always = {name for one in allowed if not one.get("args") for name in one["names"]}
    assert {"read", "openat", "execve", "clone3", "futex", "arch_prctl"} <= always | {"clone3"}
    assert (
        not {"init_module", "bpf", "kexec_load", "perf_event_open", "open_by_handle_at", "settimeofday"}
        & always
    )
    assert {"chroot", "mknod"} <= always


def test_the_administrators_own_comes_first(tmp_path: Path) -> None:
    own, shipped = tmp_path / "own.json", tmp_path / "shipped.json"
    shipped.write_text(json.dumps(profile(rule("shipped"))))
    assert names(load("amd64", [], [own, shipped]) or {}) == ["shipped"]
    own.write_text(json.dumps(profile(rule("own"))))
    assert names(load("amd64", [], [own, shipped]) or {}) == ["own"]
    assert [path.parts[1] for path in PROFILE_PATHS] == ["etc", "usr"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'"x"',
        b"null",
        b"\xff",
        b'{"syscalls": 5}',
        b'{"defaultAction": "x", "syscalls": [5]}',
    ],
)
def test_a_profile_of_another_form_is_passed_over(tmp_path: Path, content: bytes) -> None:
    odd, good = tmp_path / "odd.json", tmp_path / "good.json"
    odd.write_bytes(content)
    assert load("amd64", [], [odd, tmp_path / "missing.json"]) is None
    good.write_text(json.dumps(profile(rule("good"))))
    assert names(load("amd64", [], [odd, good]) or {}) == ["good"]
