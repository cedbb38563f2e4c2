"""`mill apply`, `mill templates show|rm` and `mill images load`: what changes the node beside tasks."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.cli import toml
from mill.config import parse_templates
from mill.model import Draft, Duration, Mount, MountType, Network, Size, Template
from tests.cli.conftest import Mill
from tests.client.fake_api import FakeApi

TASKS = """
[task.coop-agent]
image = "registry.example.com/coop:claude"
cpu = 2
memory = "4G"
timeout = "2h"
[task.coop-agent.env]
MODE = "agent"

[task.other]
image = "busybox"
"""


def puts(api: FakeApi) -> list[str]:
    return [request.path for request in api.requests if request.method == "PUT"]


def test_apply_says_what_it_did_and_puts_only_what_changed(mill: Mill, api: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "tasks.toml"
    file.write_text(TASKS)
    assert mill("apply", "-f", str(file)).stdout == "coop-agent created\nother created\n"
    draft = api.templates["coop-agent"].draft
    assert (draft.memory, draft.timeout, draft.env) == (4 * 1024**3, 7200.0, {"MODE": "agent"})
    file.write_text(TASKS.replace("4G", "5G"))
    assert mill("apply", "-f", str(file)).stdout == "coop-agent updated\nother unchanged\n"
    assert puts(api) == ["/v1/templates/coop-agent", "/v1/templates/other", "/v1/templates/coop-agent"]
    said = json.loads(mill("apply", "-f", str(file), "--json").stdout)
    assert [one["name"] for one in said["templates"]] == ["coop-agent", "other"]


def test_apply_reads_standard_input(mill: Mill) -> None:
    assert mill("apply", "-f", "-", stdin=TASKS).stdout == "coop-agent created\nother created\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[task.a]\nimage = \n", ":2:"),
        ("[task.a]\nimage = 'x'\ncpus = 2\n", ":3: task.a.cpus: unknown field"),
        ("[task.a]\nimage = 'x'\nmemory = '2X'\n", ":3: task.a.memory: '2X' is not a size"),
        ("[tasks.a]\nimage = 'x'\n", ":1: unknown key 'tasks'"),
        ("[task.A_B]\nimage = 'x'\n", ":1: task.A_B: the name is no DNS label"),
        ("", "holds no [task.NAME] table"),
    ],
)
def test_a_bad_file_is_told_with_its_line_before_anything_is_asked(
    mill: Mill, api: FakeApi, tmp_path: Path, text: str, line: str
) -> None:
    file = tmp_path / "tasks.toml"
    file.write_text(TASKS.replace("[task.other]", "[task.fine]") + text if text else "")
    shift = TASKS.count("\n")
    wanted = (
        line if not line.startswith(":") else f":{int(line.split(':')[1]) + shift}:{line.split(':', 2)[2]}"
    )
    result = mill("apply", "-f", str(file), code=2)
    assert result.stderr.startswith(f"mill: {file}")
    assert wanted in result.stderr
    assert result.stderr.count("\n") == 1
    assert api.requests == []


def test_a_file_that_cannot_be_read_is_told(mill: Mill, tmp_path: Path) -> None:
    assert (
        mill("apply", "-f", "/nowhere", code=2).stderr
        == "mill: cannot read /nowhere: no such file or directory\n"
    )
    assert "is a directory" in mill("apply", "-f", str(tmp_path), code=2).stderr
    assert mill("apply", "-f", "-", stdin=b"\xff", code=2).stderr == "mill: - is not UTF-8 text\n"


def test_a_template_of_the_configuration_is_left_alone(mill: Mill, api: FakeApi) -> None:
    api.templates["other"] = Template("other", Draft(image="busybox"), "config")
    assert "other unchanged" in mill("apply", "-f", "-", stdin=TASKS).stdout
    api.templates["other"] = Template("other", Draft(image="else"), "config")
    result = mill("apply", "-f", "-", stdin=TASKS, code=1)
    assert result.stdout == "coop-agent unchanged\n"
    assert result.stderr == "mill: template 'other' is defined by the node's configuration file\n"


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
DRAFTS = st.builds(
    Draft,
    image=st.none() | TEXT.filter(lambda text: bool(text.strip())),
    args=st.none() | st.lists(TEXT, max_size=3).map(tuple),
    env=st.none()
    | st.dictionaries(TEXT.filter(lambda key: bool(key) and "=" not in key), TEXT, min_size=1, max_size=3),
    cpu=st.none() | st.floats(0.01, 64),
    memory=st.none() | st.integers(8 * 1024**2, 2**40).map(Size),
    timeout=st.none() | st.floats(1, 10**6).map(Duration),
    network=st.none() | st.sampled_from(list(Network)),
    mounts=st.none() | st.just((Mount("/a", source="/b"), Mount("/t", MountType.TMPFS, size=Size(5)))),
    init=st.none() | st.booleans(),
)


@given(DRAFTS)
def test_a_shown_template_can_be_applied_again(draft: Draft) -> None:
    assert parse_templates(toml.template("some-name", draft), "shown") == {"some-name": draft}


def test_templates_show_and_rm(mill: Mill, api: FakeApi) -> None:
    mill("apply", "-f", "-", stdin=TASKS)
    shown = mill("templates", "show", "coop-agent").stdout
    assert mill("apply", "-f", "-", stdin=shown).stdout == "coop-agent unchanged\n"
    assert json.loads(mill("templates", "show", "coop-agent", "--json").stdout)["draft"]["cpu"] == 2.0
    assert mill("templates", "rm", "coop-agent").stdout == "coop-agent removed\n"
    assert json.loads(mill("templates", "rm", "other", "--json").stdout) == {"removed": ["other"]}
    assert api.templates == {}
    assert mill("templates", "show", "other", code=2).stderr == "mill: no template 'other'\n"


def test_an_archive_is_loaded_from_a_file_or_a_pipe(mill: Mill, api: FakeApi, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"oci" + bytes(3_000_000))
    digest = f"sha256:{'ab' * 32}"
    assert (
        mill("images", "load", str(archive)).stdout == f"loaded docker.io/library/loaded:latest  {digest}\n"
    )
    assert mill("images", "load", "-", "--name", "mine:v1", stdin=b"oci from a pipe").stdout.startswith(
        "loaded mine:v1"
    )
    assert json.loads(mill("images", "load", str(archive), "--json").stdout)["images"][0]["digest"] == digest
    assert api.loaded == [archive.read_bytes(), b"oci from a pipe", archive.read_bytes()]


def test_what_is_no_archive_is_told(mill: Mill, api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("hello")
    refused = mill("images", "load", str(tmp_path / "a.tar"), code=2)
    assert refused.stderr == "mill: archive: is neither an OCI nor a Docker archive\n"
    missing = mill("images", "load", str(tmp_path / "b.tar"), code=2)
    assert missing.stderr == f"mill: cannot read {tmp_path}/b.tar: no such file or directory\n"
    assert "is a directory" in mill("images", "load", str(tmp_path), code=2).stderr
    assert len(api.loaded) == 1
