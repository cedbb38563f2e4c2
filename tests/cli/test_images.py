"""`mill images pull` and `rm`: bars on a terminal, plain lines off it, an end for each."""

import json

from mill.model import Image
from tests.cli.conftest import COMMAND, Mill
from tests.client.fake_api import FakeApi
from tests.terminal import CTRL_C, on_terminal

A, B = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
PROBLEM = {
    "error": {
        "type": "urn:mill:problem:pull-error",
        "title": "t",
        "status": 502,
        "detail": "no such tag",
    }
}
IMAGE = {"ref": "docker.io/library/REF:latest", "digest": A, "size": 10, "created": None}


def progress(*states: str) -> dict[str, object]:
    layers = [{"digest": d, "state": s, "done": 1, "total": 2} for d, s in zip((A, B), states, strict=True)]
    return {"progress": {"done": 2, "total": 4, "layers": layers}}


def test_off_a_terminal_a_pull_is_a_line_as_it_begins_and_the_image_on_stdout(
    api: FakeApi, mill: Mill
) -> None:
    api.pulls = [progress("downloading", "exists"), progress("done", "exists"), {"image": IMAGE}]
    result = mill("images", "pull", "busybox")
    assert result.stdout == f"pulled docker.io/library/busybox:latest  {A}\n"
    assert result.stderr == "mill: pulling busybox\n"
    assert json.loads(api.requests[-1].body) == {"image": "busybox", "pull": "always"}


def test_a_pull_can_leave_the_registry_alone(api: FakeApi, mill: Mill) -> None:
    api.pulls = [{"image": IMAGE}]
    result = mill("images", "pull", "--pull", "missing", "busybox")
    assert (result.stdout.split()[0], result.stderr) == ("pulled", "")
    assert json.loads(api.requests[-1].body)["pull"] == "missing"
    assert "'never' is not one of" in mill("images", "pull", "--pull", "never", "busybox", code=2).stderr


def test_json_is_what_the_api_tells_line_by_line(api: FakeApi, mill: Mill) -> None:
    api.pulls = [{**progress("downloading", "exists"), "of a newer milld": 1}, {"image": IMAGE}]
    result = mill("images", "pull", "--json", "busybox")
    image = {**IMAGE, "ref": "docker.io/library/busybox:latest"}
    assert [json.loads(line) for line in result.stdout.splitlines()] == [api.pulls[0], {"image": image}]
    assert result.stderr == ""
    api.pulls = [progress("downloading", "exists"), PROBLEM]
    result = mill("images", "pull", "--json", "busybox", code=1)
    assert [json.loads(line) for line in result.stdout.splitlines()] == api.pulls
    assert result.stderr == "mill: no such tag\n"


def test_on_a_terminal_a_pull_has_bars_and_then_the_image_alone(
    api: FakeApi, environ: dict[str, str]
) -> None:
    api.pulls = [progress("downloading", "exists"), "pause", {"image": IMAGE}]
    with on_terminal([*COMMAND, "images", "pull", "busybox"], environ, width=120) as shown:
        text = shown.until(lambda text: "total" in text)
        assert text.splitlines()[:2] == [
            "pulling busybox",
            f"abababababab  downloading  {'━' * 20}{'─' * 20}      1B of 2B",
        ]
        api.do(api.go_on.set)
        assert shown.finish() == 0
        assert shown.screen.text == f"pulled docker.io/library/busybox:latest  {A}\n"


def test_ctrl_c_leaves_a_pull_and_a_clean_screen(api: FakeApi, environ: dict[str, str]) -> None:
    api.pulls = [progress("downloading", "exists"), "wait"]
    with on_terminal([*COMMAND, "images", "pull", "busybox"], environ) as shown:
        shown.until(lambda text: "total" in text)
        shown.press(CTRL_C)
        assert shown.finish() == 130
        assert shown.screen.text == ""
    assert api.left.wait(10)


def test_a_pull_that_fails_is_one_line(api: FakeApi, mill: Mill) -> None:
    api.pulls = [PROBLEM]
    result = mill("images", "pull", "busybox", code=1)
    assert (result.stdout, result.stderr) == ("", "mill: no such tag\n")


def test_images_are_removed_in_turn_up_to_the_first_that_cannot_be(api: FakeApi, mill: Mill) -> None:
    api.images += [Image("a", A, 1), Image("b", A, 1), Image("c", A, 1)]
    result = mill("images", "rm", "a", "b", "nope", "c", code=2)
    assert result.stdout == "removed a\nremoved b\n"
    assert result.stderr == "mill: no image nope\n"
    assert [image.ref for image in api.images] == ["c"]
    mill("images", "rm", code=2)
