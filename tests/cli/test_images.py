"""`mill images pull` and `rm`: plain lines, an end for each."""

import json

from mill.model import Image
from tests.cli.conftest import Mill
from tests.client.fake_api import FakeApi

A, B = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
IMAGE = {"ref": "docker.io/library/REF:latest", "digest": A, "size": 10, "created": None}


def progress(*states: str) -> dict[str, object]:
    layers = [{"digest": d, "state": s, "done": 1, "total": 2} for d, s in zip((A, B), states, strict=True)]
    return {"progress": {"done": 2, "total": 4, "layers": layers}}


def test_a_pull_tells_each_step_of_a_layer_once_and_the_image_on_stdout(api: FakeApi, mill: Mill) -> None:
    api.pulls = [
        progress("downloading", "exists"),
        progress("downloaded", "exists"),
        progress("downloaded", "exists"),
        progress("done", "exists"),
        {"image": IMAGE},
    ]
    result = mill("images", "pull", "busybox")
    assert result.stdout == f"pulled docker.io/library/busybox:latest  {A}\n"
    assert result.stderr.splitlines() == [
        "cdcdcdcdcdcd: exists",
        "abababababab: downloaded",
        "abababababab: done",
    ]
    assert json.loads(api.requests[-1].body) == {"image": "busybox", "pull": "always"}


def test_a_pull_can_leave_the_registry_alone_and_give_json(api: FakeApi, mill: Mill) -> None:
    api.pulls = [{"image": IMAGE}]
    said = json.loads(mill("images", "pull", "--missing", "--json", "busybox").stdout)
    assert said == {**IMAGE, "ref": "docker.io/library/busybox:latest"}
    assert json.loads(api.requests[-1].body)["pull"] == "missing"


def test_a_pull_that_fails_is_one_line(api: FakeApi, mill: Mill) -> None:
    api.pulls = [
        {
            "error": {
                "type": "urn:mill:problem:pull-error",
                "title": "t",
                "status": 502,
                "detail": "no such tag",
            }
        }
    ]
    result = mill("images", "pull", "busybox", code=1)
    assert (result.stdout, result.stderr) == ("", "mill: no such tag\n")


def test_images_are_removed_in_turn_up_to_the_first_that_cannot_be(api: FakeApi, mill: Mill) -> None:
    api.images += [Image("a", A, 1), Image("b", A, 1), Image("c", A, 1)]
    result = mill("images", "rm", "a", "b", "nope", "c", code=2)
    assert result.stdout == "removed a\nremoved b\n"
    assert result.stderr == "mill: no image nope\n"
    assert [image.ref for image in api.images] == ["c"]
    mill("images", "rm", code=2)
