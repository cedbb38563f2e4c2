"""A task's own node does not answer, or nobody has heard of the task: what is told then, and how soon."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
import trio

from mill.cluster.values import MemberState
from mill.model import Reason, Status, Task
from tests.api.conftest import problem
from tests.daemon.fleets import Two, task
from tests.pace import stretched

# -- not reached ------------------------------------------------------------------------------------------------------


async def test_an_owner_that_is_down_is_named_with_since_when_and_its_last_record_is_partial(
    two: Two, api: httpx.AsyncClient
) -> None:
    two.members.set(two.there.id, MemberState.DOWN, ago_s=12)
    for method, path in (("GET", "/logs"), ("GET", "/stats"), ("DELETE", "")):
        answer = await api.request(method, f"/v1/tasks/busy-0001{path}")
        assert problem(answer) == (503, "unavailable", None)
        assert "node node-2 does not answer, since 12 s" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "1"
    for query in ("", "?wait=terminal&timeout=3"):
        said = (await api.get(f"/v1/tasks/busy-0001{query}")).json()
        assert (said["status"], said["partial"]) == ("running", True)
    assert two.here.fake.tasks.asked == [("busy-0001", "terminal", pytest.approx(3.0, abs=0.5))]


async def test_an_owner_whose_port_is_closed_is_named_at_once(two: Two, api: httpx.AsyncClient) -> None:
    two.there.peer.cancel()
    with trio.fail_after(2):
        answer = await api.delete("/v1/tasks/busy-0001")
    assert problem(answer)[0] == 503
    assert "node node-2 is unreachable" in answer.json()["detail"]
    assert (await api.get("/v1/tasks/busy-0001")).json()["partial"] is True


@asynccontextmanager
async def cut_off(two: Two) -> AsyncIterator[None]:
    """The other node's kernel takes connections, and nobody reads them."""
    two.there.peer.cancel()
    await two.there.peer_closed.wait()
    with socket.create_server(tuple(two.there.address)):
        yield


@pytest.mark.parametrize("how", ["it answers nothing", "it greets nobody"])
async def test_a_record_whose_owner_is_silent_is_told_as_it_is_known_here_within_a_second(
    two: Two, api: httpx.AsyncClient, how: str
) -> None:
    await api.get("/v1/tasks/busy-0001")
    async with AsyncExitStack() as silence:
        if how == "it greets nobody":
            await silence.enter_async_context(cut_off(two))
        two.there.stall()
        for query, within_s in (("", 1.0), ("?wait=terminal&timeout=0.5", 1.5)):
            began = trio.current_time()
            said = (await api.get(f"/v1/tasks/busy-0001{query}")).json()
            took_s = trio.current_time() - began
            print(f"\n{how}, {query or 'at once'}: after {took_s:.2f} s")
            assert (said["status"], said["partial"]) == ("running", True)
            assert took_s < stretched(within_s + 0.5)


async def test_a_suspects_record_is_told_at_once_and_its_end_is_waited_for_where_it_is(
    two: Two, api: httpx.AsyncClient
) -> None:
    two.there.own(task("busy-0001", message="fresh"))
    two.members.set(two.there.id, MemberState.SUSPECT)
    two.there.stall()
    with trio.fail_after(stretched(0.9)):
        said = (await api.get("/v1/tasks/busy-0001")).json()
    assert (said["message"], said["partial"]) == (None, True)
    two.there.go_on.set()
    said = (await api.get("/v1/tasks/busy-0001?wait=terminal&timeout=7")).json()
    assert (said["message"], "partial" in said) == ("fresh", False)
    assert (await api.delete("/v1/tasks/busy-0001")).status_code == 202
    two.members.set(two.there.id, MemberState.ALIVE)
    assert (await api.get("/v1/tasks/busy-0001")).json()["message"] == "fresh"


# -- not known yet ----------------------------------------------------------------------------------------------------


async def test_a_task_that_has_not_been_heard_of_is_asked_for_before_404(
    two: Two, api: httpx.AsyncClient
) -> None:
    two.there.own(task("new-0001"))
    assert (await api.get("/v1/tasks/new-0001")).json()["node"] == "node-2"
    assert (await api.delete("/v1/tasks/new-0001")).status_code == 202
    assert problem(await api.get("/v1/tasks/nobody-0001")) == (404, "not-found", None)
    two.there.peer.cancel()
    unsure = await api.get("/v1/tasks/new-0001")
    assert problem(unsure) == (503, "unavailable", None)
    assert "node-2 did not say" in unsure.json()["detail"]


@pytest.mark.parametrize("call", ["GET", "GET ?wait=terminal", "DELETE", "GET /logs", "GET /stats"])
async def test_only_whoever_might_still_know_an_id_is_waited_for(
    two: Two, api: httpx.AsyncClient, call: str
) -> None:
    method, _, rest = call.partition(" ")

    async def asked() -> httpx.Response:
        return await api.request(method, f"/v1/tasks/nobody-0001{rest}")

    async def names_who_could_know() -> bool:
        answer = await asked()
        return problem(answer)[0] == 503 and "node-2 did not say" in answer.json()["detail"]

    two.members.set(two.there.id, MemberState.DOWN)
    assert await names_who_could_know()
    two.members.set(two.there.id, MemberState.DOWN, ago_s=two.members.lost_s + 1)
    assert problem(await asked()) == (404, "not-found", None)
    two.members.set(two.there.id, MemberState.AWAY)
    assert problem(await asked()) == (404, "not-found", None)
    two.members.partial = True
    assert await names_who_could_know()
    two.members.set(two.there.id, MemberState.DOWN, ago_s=two.members.lost_s + 1)
    assert await names_who_could_know()
    two.members.set(two.there.id, MemberState.LEFT)
    assert problem(await asked())[0] == 503  # who takes part is still to be found
    two.members.partial = False
    assert problem(await asked()) == (404, "not-found", None)


async def test_a_joiner_that_has_found_nobody_yet_says_so(two: Two, api: httpx.AsyncClient) -> None:
    del two.members.members[two.there.id]
    two.members.partial = True
    answer = await api.get("/v1/tasks/nobody-0001")
    assert problem(answer) == (503, "unavailable", None)
    assert "this node has found no other yet" in answer.json()["detail"]


class Late(dict[str, Task]):
    """Records that come while somebody looks for them."""

    looked = 0

    def get(self, task_id: str, _: object = None) -> Any:
        self.looked += 1
        return None if self.looked == 1 else Task(task(task_id, status=Status.STOPPED, reason=Reason.EXIT))


async def test_what_gossip_brings_while_nobody_answers_is_an_answer(two: Two, api: httpx.AsyncClient) -> None:
    two.there.peer.cancel()
    two.here.known.rows = Late()
    assert (await api.get("/v1/tasks/late-0001")).json()["status"] == "stopped"


async def test_an_end_that_the_owner_tells_is_not_answered_by_an_older_word(
    two: Two, api: httpx.AsyncClient
) -> None:
    """The record comes here between the question and the answer, as it was before."""
    two.there.own(task("quick-0001", status=Status.STOPPED, reason=Reason.EXIT))
    two.here.fake.tasks.add(task("quick-0001"))
    for query in ("", "?wait=terminal"):
        assert (await api.get(f"/v1/tasks/quick-0001{query}")).json()["status"] == "stopped"


async def test_a_lone_node_asks_nobody_and_reads_nothing_twice(two: Two, api: httpx.AsyncClient) -> None:
    del two.members.members[two.there.id]
    assert problem(await api.get("/v1/tasks/nobody-0001")) == (404, "not-found", None)
    assert two.here.known.asked == 0
