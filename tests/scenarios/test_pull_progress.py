"""A pull over a slow link as a person sees it: bars while it lasts, and a clean screen after it."""

import re
from collections.abc import Iterator

import pytest
import trio

from tests.images import OciImage, busybox_image, large_layer, push
from tests.node import MILL, Node
from tests.registry import Registry
from tests.terminal import CTRL_C, on_terminal
from tests.throttle import throttled

MIB = 2**20
LINK_BYTES_A_SECOND = 4 * MIB


def image(seed: bytes) -> OciImage:
    """Some layers that are nowhere yet."""
    base = busybox_image()
    return OciImage([*base.layers, *(large_layer(2 * MIB, seed + bytes([n])) for n in range(4))], base.config)


@pytest.fixture
def slow(registry: Registry) -> Iterator[str]:
    with throttled(registry.host, LINK_BYTES_A_SECOND) as host:
        yield host


def in_the_middle(text: str) -> bool:
    """Of the download: the whole is at some percent, and a rate is known."""
    return re.search(r"^total +[1-9]\d*% .*━.*M of 10M +\S+/s$", text, re.MULTILINE) is not None


def test_run_shows_bars_and_then_the_task_alone(node: Node, registry: Registry, slow: str) -> None:
    trio.run(push, image(b"run"), registry.host, "bars/run", "v1")
    said = [*MILL, "run", "--image", f"{slow}/bars/run:v1", "--memory", "32M", "--", "echo", "hello"]
    with on_terminal(said, node.env(), output_too=False) as shown:
        text = shown.until(in_the_middle)
        assert f"pulling {slow}/bars/run:v1\n" in text
        assert "━" in text
        assert shown.finish() == 0
        assert shown.output == "hello\n"
        line, *rest = shown.screen.text.splitlines()
        assert line.startswith("mill: task run-")
        assert rest == []


def test_ctrl_c_in_a_pull_kills_the_task_and_leaves_a_clean_screen(
    node: Node, registry: Registry, slow: str
) -> None:
    trio.run(push, image(b"ctrl-c"), registry.host, "bars/ctrl-c", "v1")
    said = [*MILL, "run", "--image", f"{slow}/bars/ctrl-c:v1", "--memory", "32M", "--", "echo", "hello"]
    with on_terminal(said, node.env()) as shown:
        shown.until(in_the_middle)
        shown.press(CTRL_C)
        assert shown.finish() == 143
        first, second, third = shown.screen.text.splitlines()
        task_id = first.split()[2]
        assert second == f"mill: killing {task_id}; Ctrl-C again kills it at once"
        assert third.startswith(f"mill: task {task_id} stopped: ")


def test_images_pull_shows_bars_and_then_the_image_alone(node: Node, registry: Registry, slow: str) -> None:
    made = trio.run(push, image(b"pull"), registry.host, "bars/pull", "v1")
    with on_terminal([*MILL, "images", "pull", f"{slow}/bars/pull:v1"], node.env(), width=200) as shown:
        shown.until(in_the_middle)
        assert shown.finish() == 0
        assert shown.screen.text == f"pulled {slow}/bars/pull:v1  {made.digest}\n"


def test_spawn_wait_returns_once_the_task_runs(node: Node, registry: Registry, slow: str) -> None:
    trio.run(push, image(b"spawn"), registry.host, "bars/spawn", "v1")
    said = ["--image", f"{slow}/bars/spawn:v1", "--memory", "32M", "--", "sleep", "1000"]
    with on_terminal([*MILL, "spawn", "--wait", *said], node.env()) as shown:
        shown.until(in_the_middle)
        assert shown.finish() == 0
        first, *_, last = shown.screen.text.splitlines()
        task_id = first.split()[1]
        assert last == f"mill: task {task_id} is running"
        assert len(shown.screen.text.splitlines()) == 4
    assert node.api("GET", f"/v1/tasks/{task_id}").json()["status"] == "running"
    node.mill("kill", "--grace", "0", task_id)
