"""``/v1/metrics`` of a real node: figures that are the records' own, through restarts too, and a scrape that holds up nobody."""

import os
import signal
import statistics
import time
from collections import Counter

import httpx
import pytest
import trio

from mill.client import Client
from mill.model import Record
from tests import registry as real
from tests.images import busybox_image, push
from tests.node import MakeNode, Node, free_port
from tests.scenarios.acts import SMALL, end_of, pid_one, run, running, spawn
from tests.scrape import OPENMETRICS, Scrape, offences

MANY = 100
SCRAPES = 20
SCRAPE_S = 0.05
HELD_UP_S = 0.05
"""The longest that another request may take while a page is made. The best of all scrapes counts, as for the scrape's own
time: what other programs do is in some of them, what a scrape does is in each."""
EAT = "a=x; while :; do a=$a$a; done"
ROUNDING_S = 0.002
"""A record's times are told to the millisecond."""


def scrape(node: Node, accept: str = "text/plain") -> Scrape:
    answer = node.api("GET", "/v1/metrics", headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    return Scrape.parse(answer.text, answer.headers["content-type"])


def ends_of(records: list[Record]) -> dict[tuple[str, ...], float]:
    return dict(Counter((str(record.status), str(record.reason)) for record in records))


def lengths(records: list[Record], first: str, last: str) -> list[float]:
    """Seconds from one time to the other, of the records that have both."""
    spans = [(getattr(one.times, first), getattr(one.times, last)) for one in records]
    return [end - begin for begin, end in spans if begin is not None and end is not None]


def check_phase(page: Scrape, phase: str, known: list[float]) -> None:
    name = f"mill_task_{phase}_duration_seconds"
    assert page.value(f"{name}_count") == len(known), phase
    assert page.value(f"{name}_sum") == pytest.approx(sum(known), abs=ROUNDING_S * len(known)), phase


async def one_of_each(client: Client, node: Node, registry: real.Registry) -> tuple[list[Record], int]:
    """A task for most ends, one that was pulled, and one that still runs; and how many bytes the pull must have taken."""
    made = await push(
        busybox_image(compression="gzip", Cmd=["echo", "pulled"]), registry.host, "counted/app", "1"
    )
    layer = max(len(blob) for blob in made.blobs.values())
    shot = await running(client, "sleep", "100")
    os.kill(pid_one(node, shot), signal.SIGKILL)
    killed = await running(client, "sleep", "100")
    await client.kill(killed, grace=0)
    ended = [
        await run(client, "echo", "12345"),
        await run(client, "sh", "-c", "exit 3"),
        await end_of(client, shot),
        await end_of(client, killed),
        await run(client, "sleep", "100", timeout=0.3, grace=0),
        await run(client, "sh", "-c", EAT, memory="16M"),
        await run(client, "/no/such/command"),
        await run(client, image=f"{registry.host}/counted/app:1"),
        await run(client, image=f"{registry.host}/no/such:1"),
        await run(client, image=f"127.0.0.1:{free_port()}/some/app:1", pull_timeout=30),
    ]
    return ended, layer


async def test_the_figures_are_those_of_the_records(make_node: MakeNode, registry: real.Registry) -> None:
    node = make_node(name="counted", options={"cpu": "2", "memory": "256M"})
    async with Client(node.address, node.token) as client:
        ended, layer = await one_of_each(client, node, registry)
        stays = await running(client, "sleep", "100")
        for fields, status in (({"cpu": 1.9}, 503), ({"cpu": 1.9}, 503), ({"cpu": 3}, 400)):
            assert node.api("POST", "/v1/tasks/spawn", json={**SMALL, **fields}).status_code == status
        page = scrape(node)
        assert [*offences(page), *offences(scrape(node, OPENMETRICS))] == []
        assert page.by("mill_tasks", "status") == {("running",): 1}
        assert len(ends_of(ended)) == 8
        assert page.by("mill_task_ends_total", "status", "reason") == ends_of(ended)
        check_phases(page, ended, await client.get(stays))
        check_work(page, layer)
        check_api(page, spawned=len(ended) + 1)
        await client.kill(stays, grace=0)
        await end_of(client, stays)


def check_phases(page: Scrape, ended: list[Record], alive: Record) -> None:
    records = [*ended, alive]
    waited = [one for one in ended if one.times.pull_began is not None and one.times.pulled is not None]
    assert len(waited) == 1
    check_phase(page, "pull", lengths(waited, "created", "pulled"))
    check_phase(page, "start", lengths(records, "pulled", "started"))
    check_phase(page, "run", lengths(ended, "started", "finished"))


def check_work(page: Scrape, layer: int) -> None:
    """Pulls, logs, room and calls."""
    assert page.by("mill_image_pulls_total", "result") == {("ok",): 1, ("not_found",): 1, ("network",): 1}
    assert page.value("mill_image_pulled_bytes_total") == layer
    assert page.value("mill_log_taken_bytes_total") >= len("12345\npulled\n")
    assert page.by("mill_log_dropped_bytes_total", "cause") == {}
    assert page.value("mill_log_stored_bytes") > page.value("mill_log_taken_bytes_total")
    assert page.by("mill_admission_refusals_total", "reason") == {("no_capacity",): 2, ("never_fits",): 1}
    room = [page.value(f"mill_cpu_{kind}_cores") for kind in ("capacity", "reserved", "free")]
    assert room == [2.0, 0.5, 1.5]
    calls = page.by("mill_containerd_call_duration_seconds_count", "method")
    seconds = page.by("mill_containerd_call_duration_seconds_sum", "method")
    assert calls["Tasks.Create",] >= 8
    assert ("Tasks.Wait",) not in calls
    assert all(0 < seconds[method] / count < 5 for method, count in calls.items())
    assert page.by("mill_containerd_call_errors_total", "method", "code")["Snapshots.Stat", "NOT_FOUND"] >= 1
    assert page.value("mill_containerd_up") == 1
    assert page.value("mill_event_loop_lag_seconds_count") > 4


def check_api(page: Scrape, *, spawned: int) -> None:
    spawn = {"route": "/v1/tasks/spawn", "method": "POST"}
    codes = {
        code: page.value("mill_api_requests_total", code=code, **spawn) for code in ("2xx", "4xx", "5xx")
    }
    assert codes == {"2xx": spawned, "4xx": 1, "5xx": 2}
    name = "mill_api_request_duration_seconds"
    assert page.value(f"{name}_count", code="2xx", **spawn) == spawned
    assert 0 < page.value(f"{name}_sum", code="2xx", **spawn) < spawned
    one = {"route": "/v1/tasks/{id}", "method": "GET", "code": "2xx"}
    waits = page.value("mill_api_requests_total", **one) - page.values.get(
        (f"{name}_count", tuple(sorted(one.items()))), 0
    )
    assert waits >= spawned, "a wait counts, but is not timed"
    assert page.value("mill_api_requests_in_flight") == 1
    assert page.value("mill_api_connections") >= 1


def test_a_stranger_gets_no_figures(node: Node) -> None:
    assert httpx.get(f"{node.address}/v1/metrics").status_code == 401


@pytest.mark.parametrize("how", ["terminate", "kill9"])
async def test_a_restart_begins_at_0_and_counts_what_ended_meanwhile(make_node: MakeNode, how: str) -> None:
    node = make_node(name="again")
    async with Client(node.address, node.token) as client:
        before = await run(client, "true")
        assert scrape(node).by("mill_task_ends_total", "status", "reason") == ends_of([before])
        away = await running(client, "sh", "-c", "sleep 1; exit 4")
        stays = await running(client, "sleep", "100")
        pid = pid_one(node, away)
        await trio.to_thread.run_sync({"terminate": node.terminate, "kill9": node.kill9}[how])
        while os.path.exists(f"/proc/{pid}"):  # noqa: ASYNC110, ASYNC240, PTH110 -- of a process that is not ours
            await trio.sleep(0.02)
        await trio.to_thread.run_sync(node.start)
        ended = await end_of(client, away)
        page = scrape(node)
        assert page.by("mill_tasks", "status") == {("running",): 1}
        assert page.by("mill_task_ends_total", "status", "reason") == ends_of([ended])
        check_phase(page, "run", lengths([ended], "started", "finished"))
        check_phase(page, "start", [])
        await client.kill(stays, grace=0)
        killed = await end_of(client, stays)
        page = scrape(node)
        assert page.by("mill_task_ends_total", "status", "reason") == ends_of([ended, killed])
        check_phase(page, "run", lengths([ended, killed], "started", "finished"))


async def test_with_100_tasks_a_scrape_is_quick_and_holds_up_no_other_request(make_node: MakeNode) -> None:
    node = make_node(name="many", options={"cpu": "200", "memory": "64G"})
    async with Client(node.address, node.token) as client:
        ids = [await spawn(client, "sleep", "1000") for _ in range(MANY)]
        for task_id in ids:
            await client.wait(task_id, "running", timeout=60)
        headers = {"Authorization": f"Bearer {node.token}", "Accept": OPENMETRICS}
        async with httpx.AsyncClient(base_url=node.address, headers=headers, verify=False) as http:
            took, held_up = [], []
            for _ in range(SCRAPES):
                scraped_s, worst_s = await scrape_and_look(http)
                took.append(scraped_s)
                held_up.append(worst_s)
            page = await http.get("/v1/metrics")
        print(
            f"\n{MANY} running: {len(page.text.splitlines())} lines in {min(took) * 1000:.1f} ms (median "
            f"{statistics.median(took) * 1000:.1f}), others waited {statistics.median(held_up) * 1000:.1f} ms at most (median; {min(held_up) * 1000:.1f} the least)"
        )
        said = Scrape.parse(page.text, page.headers["content-type"])
        assert said.value("mill_tasks", status="running") == MANY
        assert min(took) <= SCRAPE_S, took
        assert min(held_up) <= HELD_UP_S, held_up


async def scrape_and_look(http: httpx.AsyncClient) -> tuple[float, float]:
    """How long a scrape takes, and how long the slowest request that is made meanwhile."""
    worst_s = 0.0

    async def look() -> None:
        nonlocal worst_s
        while True:
            began = time.perf_counter()
            try:
                (await http.get("/healthz")).raise_for_status()
            finally:  # one that is still held up when the scrape is over counts, too
                worst_s = max(worst_s, time.perf_counter() - began)

    await http.get("/healthz")
    began = time.perf_counter()
    (await http.get("/v1/metrics")).raise_for_status()
    alone_s = time.perf_counter() - began
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        (await http.get("/v1/metrics")).raise_for_status()
        nursery.cancel_scope.cancel()
    return alone_s, worst_s
