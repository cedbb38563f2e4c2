"""Judging containerd and the OCI runtime: versions, what does not answer, what is not installed. Real sockets, real programs."""

import socket
from pathlib import Path

import pytest

from mill.config import Config
from mill.containerd.session import Features
from mill.daemon.doctor import containerd
from mill.daemon.doctor.findings import Finding, Level
from mill.daemon.doctor.host import Containerd, Host
from tests.node import Node


def program(folder: Path, name: str, says: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{says}\n")
    file.chmod(0o755)


def levels(findings: list[Finding]) -> list[str]:
    return [str(finding.level) for finding in findings]


@pytest.mark.parametrize(("version", "level"), [
    ("1.6.20~ds1", "ok"),
    ("v1.7.24", "ok"),
    ("containerd containerd.io 2.1.4 75cb2b7193e4e490e9fbdc236c0e811ccaba3376", "ok"),
    ("1.5.9", "problem"),
    ("0.9.0", "problem"),
    ("3.0.0", "warning"),
    ("a build of mine", "warning"),
])  # fmt: skip
def test_supported_versions(version: str, level: str) -> None:
    finding = containerd.judge_version(version, "it")
    assert finding.level == level
    assert bool(finding.advice) is (level != "ok")


def test_one_without_a_task_service_runs_nothing() -> None:
    assert (
        list(containerd.judge_features(Features("2.0.0", frozenset({"io.containerd.grpc.v1.tasks"})))) == []
    )
    found = list(containerd.judge_features(Features("2.0.0", frozenset())))
    assert levels(found) == ["problem"]


async def test_sockets_that_are_no_containerd_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen()
        for name, told in (
            ("text", "is not a socket"),
            ("mute", "is not containerd, or hangs"),
            ("none", "does not exist"),
        ):
            path = str(tmp_path / name)
            found = await containerd.reach(Host(Config(data_dir=tmp_path / "d", containerd=path)))
            assert (found.socket, found.embedded, found.features) == (path, False, None)
            assert told in found.fault


async def test_one_that_answers_is_asked_and_not_changed(node: Node, tmp_path: Path) -> None:
    host = Host(Config(data_dir=tmp_path, containerd=str(node.socket)))
    found = await containerd.reach(host)
    assert found.features is not None
    assert found.features.runs_tasks
    (finding,) = containerd.containerd(Host(host.config, containerd=found))
    assert finding.level is Level.OK
    assert str(node.socket) in finding.found


def test_one_that_must_answer_and_does_not_is_a_problem() -> None:
    host = Host(Config(), containerd=Containerd("/s", embedded=False, fault="/s: nobody listens there"))
    (finding,) = containerd.containerd(host)
    assert (finding.level, finding.found) == (Level.PROBLEM, "/s: nobody listens there")
    assert any("--containerd embedded" in line for line in finding.advice)


def test_an_embedded_one_must_be_installed(tmp_path: Path) -> None:
    own = Containerd("/d/s", embedded=True, fault="/d/s does not exist")
    host = Host(Config(containerd="embedded"), path=str(tmp_path), containerd=own)
    (finding,) = containerd.containerd(host)
    assert finding.level is Level.PROBLEM
    assert "apt-get install containerd" in finding.advice[0]
    program(tmp_path, "containerd", "exit 1")
    (finding,) = containerd.containerd(host)
    assert (finding.level, "does not run" in finding.found) == (Level.PROBLEM, True)
    program(tmp_path, "containerd", "echo containerd github.com/containerd/containerd 1.7.2 1.7.2")
    (finding,) = containerd.containerd(host)
    assert (finding.level, "1.7.2" in finding.found) == (Level.OK, True)


def test_a_system_s_that_hangs_is_told_where_milld_would_pass_it_over(tmp_path: Path) -> None:
    program(tmp_path, "containerd", "echo containerd x 1.7.2")
    hung = Containerd("/d/s", embedded=True, fault="/run/s: what listens there is not containerd, or hangs")
    found = list(containerd.containerd(Host(Config(), path=str(tmp_path), containerd=hung)))
    assert levels(found) == ["ok", "warning"]


def test_the_runtime_and_its_shim_must_be_installed(tmp_path: Path) -> None:
    host = Host(Config(runtime="crun"), path=str(tmp_path))
    found = list(containerd.runtime(host))
    assert levels(found) == ["problem", "problem"]
    assert "containerd-shim-runc-v2" in found[0].found
    assert "apt-get install crun" in found[1].advice[0]
    program(tmp_path, "containerd-shim-runc-v2", "exit 0")
    program(tmp_path, "crun", "echo crun version 1.8.1; echo commit: x")
    (finding,) = containerd.runtime(host)
    assert (finding.level, "crun version 1.8.1" in finding.found) == (Level.OK, True)


@pytest.mark.parametrize(("says", "level"), [
    ("runc version 1.1.5+ds1\ncommit: x", "ok"),
    ("runc version 1.0.0~rc93", "ok"),
    ("runc version 0.1.1", "warning"),
    ("runsc version release-20240101.0", "ok"),
])  # fmt: skip
def test_old_runtimes(says: str, level: str) -> None:
    assert containerd.judge_runtime("/usr/bin/x", says).level == level
