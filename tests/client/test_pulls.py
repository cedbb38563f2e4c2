"""A pull as the client shows it, under trio and asyncio: progress, the image, every way in which it may end otherwise."""

from typing import Any

import pytest

from mill.client import Client, ConnectionFailed, FieldError, NotFound, ProblemError
from mill.model import Image, LayerProgress, LayerState, PullProgress
from tests.client.conftest import RunAsync
from tests.client.fake_api import TOKEN, FakeApi

DIGEST = "sha256:" + "ab" * 32
PROGRESS = {
    "done": 5,
    "total": 10,
    "layers": [{"digest": DIGEST, "state": "downloading", "done": 5, "total": 10}],
}
IMAGE = {"ref": "REF", "digest": DIGEST, "size": 10, "created": None}
PROBLEM = {
    "type": "urn:mill:problem:pull-error",
    "title": "image cannot be pulled",
    "status": 502,
    "detail": "no such tag",
}


async def pulled(api: FakeApi, **options: Any) -> list[PullProgress | Image]:
    async with Client(api.address, TOKEN) as mill, mill.pull_image("busybox", **options) as news:
        return [one async for one in news]


def test_progress_comes_and_then_the_image(api: FakeApi, run_async: RunAsync) -> None:
    api.pulls = [{"progress": PROGRESS}, {"image": IMAGE}]
    assert run_async(lambda: pulled(api)) == [
        PullProgress(5, 10, (LayerProgress(DIGEST, LayerState.DOWNLOADING, 5, 10),)),
        Image("busybox", DIGEST, 10),
    ]
    assert api.requests[-1].body == b'{"image": "busybox", "pull": "always"}'
    run_async(lambda: pulled(api, pull="missing"))
    assert api.requests[-1].body == b'{"image": "busybox", "pull": "missing"}'


def test_whoever_wants_the_image_alone_gets_it(api: FakeApi, run_async: RunAsync) -> None:
    api.pulls = [{"progress": PROGRESS}, {"image": IMAGE}]

    async def body() -> None:
        async with Client(api.address, TOKEN) as mill, mill.pull_image("busybox") as news:
            assert await news.image() == Image("busybox", DIGEST, 10)

    run_async(body)


def test_a_newer_milld_may_say_more(api: FakeApi, run_async: RunAsync) -> None:
    api.pulls = [{"progress": {**PROGRESS, "mood": "good"}}, {"image": {**IMAGE, "mood": "good"}}]
    assert run_async(lambda: pulled(api))[-1] == Image("busybox", DIGEST, 10)


def test_an_error_at_the_end_is_raised_as_what_it_is(api: FakeApi, run_async: RunAsync) -> None:
    api.pulls = [{"progress": PROGRESS}, {"error": PROBLEM}]
    with pytest.raises(ProblemError, match="no such tag") as caught:
        run_async(lambda: pulled(api))
    assert (caught.value.http_status, caught.value.problem) == (502, "pull-error")
    api.pulls = [{"error": {**PROBLEM, "type": "urn:mill:problem:not-found", "status": 404}}]
    with pytest.raises(NotFound, match="no such tag"):
        run_async(lambda: pulled(api))


def test_what_came_before_an_error_is_not_lost_and_all_can_be_had_as_it_came(
    api: FakeApi, run_async: RunAsync
) -> None:
    api.pulls = [{"progress": {**PROGRESS, "mood": "good"}}, {"error": PROBLEM}]
    said: list[Any] = []

    async def body() -> None:
        async with Client(api.address, TOKEN) as mill, mill.pull_image("busybox") as news:
            assert await anext(news) == PullProgress(
                5, 10, (LayerProgress(DIGEST, LayerState.DOWNLOADING, 5, 10),), extra={"mood": "good"}
            )
            said.append(news.said)
            with pytest.raises(ProblemError, match="no such tag"):
                await anext(news)
            said.append(news.said)
            assert [one async for one in news] == []

    run_async(body)
    assert said == api.pulls


@pytest.mark.parametrize("pulls", [[], [{"progress": PROGRESS}]])
def test_an_answer_that_ends_without_an_image_is_a_broken_connection(
    api: FakeApi, run_async: RunAsync, pulls: list[Any]
) -> None:
    api.pulls = pulls
    with pytest.raises(ConnectionFailed, match="broke the pull off; ask again"):
        run_async(lambda: pulled(api))


@pytest.mark.parametrize("line", [5, {}, {"image": {"size": 1}}, {"progress": {"layers": 5}}, {"error": {}}])
def test_a_line_that_is_none_of_ours_is_told_in_one_line(
    api: FakeApi, run_async: RunAsync, line: Any
) -> None:
    api.pulls = [line]
    with pytest.raises(ProblemError, match="cannot read") as caught:
        run_async(lambda: pulled(api))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pull", ["never", "often"])
def test_a_bad_policy_is_refused_here(api: FakeApi, run_async: RunAsync, pull: str) -> None:
    with pytest.raises(FieldError, match=r"^pull: "):
        run_async(lambda: pulled(api, pull=pull))
    assert api.requests == []


def test_leaving_early_closes_the_connection(api: FakeApi, run_async: RunAsync) -> None:
    api.pulls = [{"progress": PROGRESS}, "wait"]

    async def body() -> None:
        async with Client(api.address, TOKEN) as mill:
            async with mill.pull_image("busybox") as news:
                async for _ in news:
                    break
            assert "over" in repr(news)

    run_async(body)
    assert api.left.wait(5)


def test_an_image_is_removed_by_its_whole_name(api: FakeApi, run_async: RunAsync) -> None:
    api.images.append(Image("reg.example.com:5000/a/b:v1", DIGEST, 10))

    async def body() -> None:
        async with Client(api.address, TOKEN) as mill:
            await mill.remove_image("reg.example.com:5000/a/b:v1")
            with pytest.raises(NotFound, match="no image"):
                await mill.remove_image("reg.example.com:5000/a/b:v1")
            with pytest.raises(FieldError, match="ref"):
                await mill.remove_image("")

    run_async(body)
