"""Every way a registry can misbehave, on a real node: what becomes of the pull, and that no secret gets elsewhere."""

import json
from collections.abc import Iterator

import pytest

from tests.node import Node
from tests.scenarios.market import BASIC, PASSWORD, SMALL, Market, end_of, open_market
from tests.scenarios.moods import ROWS, SIGNATURE, TOKEN, first_byte

Opened = tuple[Market, Node, dict[str, str]]

SECRETS = (PASSWORD, BASIC.removeprefix("Basic "), TOKEN, SIGNATURE)


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    with open_market() as opened:
        yield opened


@pytest.mark.parametrize("name", ROWS)
def test_a_pull_ends_as_it_must(opened: Opened, name: str) -> None:
    _, node, ids = opened
    row, record = ROWS[name], end_of(node, ids[name])
    message = str(record["message"])
    assert "\n" not in message
    if row.detail is None:
        assert (record["reason"], record["exit_code"]) == ("exit", 0), message
    else:
        assert (record["reason"], record["detail"]) == ("pull_error", row.detail), message
        assert row.told in message
        assert f"/{name}/app" in message


def offsets(market: Market, name: str) -> list[int]:
    """Where each request for the row's own layer began, those apart that only asked for a login."""
    layer = market.shops[name].layer
    return [first_byte(a) for a in market.registry.asked if layer in a.path and "authorization" in a.headers]


def test_what_broke_off_is_resumed_where_it_broke(opened: Opened) -> None:
    market, node, ids = opened
    for name in ("cut-once", "ranges-ignored", "stalls-once"):
        end_of(node, ids[name])
        start, *later = offsets(market, name)
        assert start == 0
        assert [offset > 100_000 for offset in later] == [True], name


@pytest.mark.parametrize("policy", ["missing", "never", "always"])
def test_a_digest_that_is_here_starts_without_a_question_to_the_registry(opened: Opened, policy: str) -> None:
    """Pulled by its tag; whatever the policy, for what a digest means cannot change."""
    market, node, ids = opened
    end_of(node, ids["honest"])
    asked = sum("/honest/" in request.path for request in market.registry.asked)
    digest = market.shops["honest"].made.digest
    for name in (f"@{digest}", f":1@{digest}", f":other@{digest}"):
        answer = node.api(
            "POST",
            "/v1/tasks/spawn",
            json={"image": f"{market.registry.host}/honest/app{name}", "pull": policy, **SMALL},
        )
        assert answer.json()["status"] == "starting"
        assert end_of(node, answer.json()["id"])["exit_code"] == 0
    assert sum("/honest/" in request.path for request in market.registry.asked) == asked


def test_no_secret_reaches_another_host_or_milld_s_log_or_a_record(opened: Opened) -> None:
    market, node, ids = opened
    for task_id in ids.values():
        end_of(node, task_id)
    told = "\n".join(asked.text() for asked in market.registry.asked)
    assert [secret in told for secret in SECRETS] == [False, True, True, False]  # the test would see them
    assert {asked.path.split("/")[1] for asked in market.store.asked} == {"open", "closed", "asking"}
    for asked in market.store.asked:
        assert SIGNATURE in asked.path
        assert not {"authorization", "cookie", "proxy-authorization"} & asked.headers.keys()
        assert not any(secret in asked.text() for secret in (PASSWORD, BASIC.split()[1], TOKEN))
    known = node.log.read_text() + json.dumps(node.records())
    assert "pull_error" in known
    assert [secret for secret in SECRETS if secret in known] == []
