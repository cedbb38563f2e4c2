"""`mill systemd-unit`: the unit as text, how a command line is quoted, and what systemd itself says to it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mill.cli.systemd_unit import quoted, unit
from tests.cli.conftest import Mill


def settings(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_the_unit_keeps_tasks_alive_and_says_why(mill: Mill) -> None:
    text = mill("systemd-unit").stdout
    said = settings(text)
    assert said["Type"] == "notify"
    assert (said["KillMode"], said["Delegate"], said["Restart"]) == ("process", "yes", "on-failure")
    assert "network-online.target" in said["After"]
    assert said["Wants"] == "network-online.target"
    assert int(said["TimeoutStopSec"]) > 5
    assert int(said["LimitNOFILE"]) >= 65536
    assert said["WantedBy"] == "multi-user.target"
    assert said["ExecStart"].startswith("/")
    assert Path(said["ExecStart"]).name == "milld"
    for name in ("Type", "KillMode", "TimeoutStopSec", "LimitNOFILE"):
        before = text[: text.index(f"\n{name}=")].splitlines()[-1]
        assert before.startswith("# "), f"{name} is not explained"


def test_milld_s_options_are_checked_and_passed_on(
    mill: Mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILL_CPU", "3")
    (tmp_path / "milld.toml").write_text('memory = "1G"\n')
    text = mill("systemd-unit", "--data-dir", "my data", "--cpu", "2", "--config", "milld.toml").stdout
    line = settings(text)["ExecStart"]
    assert line.endswith(f' "--data-dir={tmp_path}/my data" --cpu=2 --config={tmp_path}/milld.toml')
    assert mill("systemd-unit", "--cpu", "lots", code=2).stderr.startswith("mill: --cpu: 'lots'")
    assert "cannot read" in mill("systemd-unit", "--config", "/no/such.toml", code=2).stderr


@pytest.mark.parametrize(("word", "as_written"), [
    ("--cpu=2", "--cpu=2"),
    ("--data-dir=/a b", '"--data-dir=/a b"'),
    ("--name=50%$HOME", "--name=50%%$$HOME"),
    ('a"b\\', '"a\\"b\\\\"'),
    ("", '""'),
])  # fmt: skip
def test_words_are_quoted_as_systemd_reads_them(word: str, as_written: str) -> None:
    assert quoted(word) == as_written


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Where there is a systemd to ask; a mistake of ours is found by it, so that this can fail."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    file = tmp_path / "milld-under-test.service"
    text = unit([sys.executable, "--data-dir=/a b", "--name=50%"])
    for content, fine in ((text, True), (text.replace("KillMode=process", "KillMode=sometimes"), False)):
        file.write_text(content)
        done = subprocess.run(
            [analyze, "verify", "--man=no", str(file)],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        ours = [line for line in done.stderr.splitlines() if file.name in line]
        assert (ours == []) is fine, done.stderr
