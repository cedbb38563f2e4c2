"""Judging milld's own files and what it answers."""

from pathlib import Path
from typing import Any

import pytest

from mill.config import Config
from mill.daemon.datadir import API_NAME, claimed, publish_api, write_whole
from mill.daemon.doctor import milld
from mill.daemon.doctor.host import Host
from mill.security.secret_file import read_or_make

WELL = {
    "version": "1.0",
    "node": "n1",
    "containerd": "1.6.20",
    "runtime_ok": True,
    "tasks": {"running": 2, "failed": 0},
}


@pytest.mark.parametrize(("token", "mode", "level"), [
    ("secret", 0o600, "ok"), ("secret", 0o400, "ok"), ("secret", 0o644, "warning"), ("secret", 0o660, "warning"), ("", 0o600, "problem"),
])  # fmt: skip
def test_the_token(token: str, mode: int, level: str) -> None:
    finding = milld.judge_token(Path("/d/admin.token"), token, mode)
    assert finding.level == level
    assert "secret" not in finding.found
    assert (finding.advice[:1] == ("chmod 600 /d/admin.token",)) is (level == "warning")


def test_a_node_id_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "node.id").write_text("nonsense\n")
    found = list(milld.identity(Host(Config(data_dir=tmp_path))))
    assert [str(one.level) for one in found] == ["problem", "ok", "ok"]
    assert "holds no node id" in found[0].found


@pytest.mark.parametrize(("code", "answer", "level", "told"), [
    (200, WELL, "ok", "2 running"),
    (200, {**WELL, "tasks": {}}, "ok", "no tasks"),
    (200, {**WELL, "runtime_ok": False}, "problem", "lost containerd"),
    (401, {"title": "unauthorized"}, "problem", "refuses the token"),
    (500, None, "problem", "answers with 500"),
])  # fmt: skip
def test_what_milld_answers(code: int, answer: Any, level: str, told: str) -> None:
    (finding,) = milld.judge_answer(7, "http://127.0.0.1:4400", code, answer)
    assert finding.level == level
    assert told in finding.found


def test_one_that_holds_the_lock_and_does_not_answer(tmp_path: Path) -> None:
    host = Host(Config(data_dir=tmp_path))
    (finding,) = milld.milld(host)
    assert (finding.level, "does not run" in finding.found) == ("warning", True)
    with claimed(tmp_path):
        (finding,) = milld.milld(host)
        assert "has not said where its API is" in finding.found
        publish_api(tmp_path, "http://127.0.0.1:1", "PEM")
        (finding,) = milld.milld(host)
        assert finding.level == "problem"
        assert "Connection refused" in finding.found
        write_whole(tmp_path / API_NAME, "[]", mode=0o644)
        (finding,) = milld.milld(host)
        assert "has not said where its API is" in finding.found


def test_a_secret_that_is_damaged_or_open_to_others(tmp_path: Path) -> None:
    file = tmp_path / "cluster.secret"
    assert "made at the first start" in milld.judge_secret(file).found
    ring = read_or_make(file)
    good = milld.judge_secret(file)
    assert (good.level, ring.used.key_id.hex() in good.found) == ("ok", True)
    assert ring.used.key.hex() not in good.found
    file.chmod(0o644)
    assert (found := milld.judge_secret(file)).level == "problem"
    assert "chmod 600" in found.found
    file.chmod(0o600)
    file.write_text("nonsense")
    assert milld.judge_secret(file).level == "problem"
