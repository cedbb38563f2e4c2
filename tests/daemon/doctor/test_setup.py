"""What milld is set up as: said here, else by the milld that runs, else what is right of something wrong."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mill.daemon.doctor.setup import configured

NOTHING: dict[str, str | None] = {}
HOLD = """
import sys
from pathlib import Path
from mill.daemon.datadir import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def running(data_dir: Path, *options: str, **environ: str) -> Iterator[None]:
    """A process that has *data_dir* and a command line like milld's."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(data_dir), *options],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=data_dir.parent, env={**os.environ, **environ},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def test_what_was_said_here_counts(tmp_path: Path) -> None:
    file = tmp_path / "milld.toml"
    file.write_text('listen = "127.0.0.1:1"\nname = "filed"\n')
    config, found = configured({"cpu": "2"}, {"MILL_LISTEN": "127.0.0.1:2"}, file)
    assert (config.cpu, config.listen, config.name, found) == (2.0, "127.0.0.1:2", "filed", [])


def test_a_milld_that_runs_tells_the_rest(tmp_path: Path) -> None:
    """By flags in both ways of writing, its environment, and a file that its own directory leads to."""
    (tmp_path / "milld.toml").write_text('runtime = "crun"\n')
    options = ("--listen=127.0.0.1:5", "--containerd", "embedded", "--config", "milld.toml")
    with running(tmp_path / "d", *options, MILL_CPU="3", MILL_NAME="theirs"):
        said = {"data_dir": str(tmp_path / "d"), "containerd": "/said/here"}
        config, found = configured(said, {"MILL_NAME": "mine"}, None)
    assert found == []
    assert (config.listen, config.runtime, config.cpu) == ("127.0.0.1:5", "crun", 3.0)
    assert (config.containerd, config.name) == ("/said/here", "mine")


def test_a_file_of_the_running_milld_that_is_gone_spoils_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "d", "--config=/no/such.toml"):
        config, found = configured({"data_dir": str(tmp_path / "d")}, {}, None)
    assert (config.data_dir, found) == (tmp_path / "d", [])


def test_of_what_is_wrong_the_rest_still_counts(tmp_path: Path) -> None:
    (finding,) = configured({"cpu": "lots"}, {}, None)[1]
    assert (finding.level, "--cpu: 'lots'" in finding.found) == ("problem", True)
    said = {"data_dir": str(tmp_path), "cpu": None, "listen": "nowhere"}
    config, (finding,) = configured(said, {"MILL_CPU": "2"}, None)
    assert (config.data_dir, config.cpu, config.listen) == (tmp_path, 2.0, "127.0.0.1:4400")
    _, (finding,) = configured(NOTHING, {}, tmp_path / "none.toml")
    assert "cannot read" in finding.found
