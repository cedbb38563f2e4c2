"""The page of metrics over the real components, but for the runtime: both formats, the conventions, its cost with 300 tasks."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from mill import __version__
from mill.api.core import Answered
from mill.api.openapi import document
from mill.api.server import Load
from mill.containerd import rpcs
from mill.containerd.authorization import Authorizer
from mill.containerd.credentials import Credentials
from mill.containerd.flights import Flights
from mill.containerd.images import LocalImage
from mill.containerd.registry import Registry
from mill.containerd.session import opened
from mill.containerd.transport import open_transport
from mill.daemon.meters import Meters
from mill.daemon.metrics import Levels, Metrics
from mill.errors import FieldError, NoCapacity
from mill.model import Resources
from mill.network.publish import Ports
from mill.security.box import Refusal
from tests import stall
from tests.dns.serving import serving
from tests.logs.lab import running
from tests.scrape import OPENMETRICS, Scrape, offences
from tests.tasks.fakes import BUSYBOX, FOREVER, Program
from tests.tasks.scene import Scene, spawn

GIB = 2**30
MANY = 300
TRIES = 5
"""The best one counts: what other programs do to the caches is not the page's fault."""
PAGE_S = 0.05
"""Of a processor's time; other programs have theirs."""
STALL_S = 0.02
"""A thread that computes gives the interpreter away after 5 ms."""
PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
"""What Prometheus 2.x asks for."""


@asynccontextmanager
async def node(
    tmp_path: Path, scene: Scene, refused: Mapping[Refusal, int] | None = None
) -> AsyncIterator[Metrics]:
    """One node's metrics; its session reaches nobody."""
    async with (
        running(tmp_path) as logs,
        open_transport() as transport,
        scene.milld() as tasks,
        serving() as names,
        trio.open_nursery() as nursery,
    ):
        with opened(str(tmp_path / "s"), "mill") as session:
            registry = Registry(transport, Authorizer(transport, Credentials({}, None), time.time), time.time)
            flights = Flights[LocalImage](nursery)
            ports = Ports(nursery)
            levels = Levels(
                "n1", tasks, session, flights, registry, logs, names, ports, Load(3, 2), refused or {}
            )
            yield Metrics(Meters.make(), levels)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def scene() -> Scene:
    scene = Scene(capacity=Resources(1000.0, 1000 * GIB), starts_at_once=MANY)
    scene.runtime.images = {BUSYBOX}
    scene.runtime.program = Program(runs_s=FOREVER)
    return scene


@pytest.fixture
async def metrics(tmp_path: Path, scene: Scene) -> AsyncIterator[Metrics]:
    async with node(tmp_path, scene) as metrics:
        yield metrics


async def scraped(metrics: Metrics, accept: str = "") -> Scrape:
    said = await metrics.page(accept)
    return Scrape.parse(said.body.decode(), said.content_type)


def fill(meters: Meters) -> None:
    """As after days: every method called, every route asked for, with success and without."""
    for rpc in vars(rpcs).values():
        if isinstance(rpc, rpcs.Rpc) and rpc.kind is rpcs.Kind.UNARY:
            for code in ("OK", "NOT_FOUND"):
                meters.on_call(rpc.path, 0.01, code)
    for path, calls in document("1")["paths"].items():
        for method in calls:
            for status in (200, 400, 503):
                meters.on_answer(Answered(path, method.upper(), status, 0.01))


async def test_the_format_is_the_one_that_is_asked_for(metrics: Metrics) -> None:
    for accept in ("", "*/*", "text/plain", "text/plain;version=0.0.4", "garbage", "text/html"):
        said = await metrics.page(accept)
        assert said.content_type == "text/plain; version=0.0.4; charset=utf-8"
        assert b"# EOF" not in said.body
    for accept in (OPENMETRICS, PROMETHEUS):
        said = await metrics.page(accept)
        assert said.content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
        assert said.body.endswith(b"# EOF\n")


async def test_both_formats_keep_the_conventions_and_say_the_same(metrics: Metrics) -> None:
    fill(metrics.meters)
    plain, open_ = await scraped(metrics), await scraped(metrics, OPENMETRICS)
    assert [*offences(plain), *offences(open_)] == []
    assert len(plain.families) == len(open_.families) > 25
    assert set(plain.values) == set(open_.values)
    assert any(family.unit for family in open_.families)


BACKWARDS = """# HELP mill_x_seconds X.
# TYPE mill_x_seconds histogram
mill_x_seconds_bucket{le="1.0"} 2
mill_x_seconds_bucket{le="+Inf"} 1
mill_x_seconds_count 1
mill_x_seconds_sum 1
"""
PLANTED = [
    ("# HELP mill_x X.\n# TYPE mill_x counter\nmill_x 1\n", "not a name for a counter"),
    ("# TYPE mill_x gauge\nmill_x 1\n", "HELP is no sentence"),
    ("# HELP mill_x_total X.\n# TYPE mill_x_total gauge\nmill_x_total 1\n", "name of something else"),
    ("# HELP mill_x_ms X.\n# TYPE mill_x_ms gauge\nmill_x_ms 1\n", "not in a base unit"),
    ("# HELP mill_bytes_x X.\n# TYPE mill_bytes_x gauge\nmill_bytes_x 1\n", "its unit is not its end"),
    ("# HELP other_x X.\n# TYPE other_x gauge\nother_x 1\n", "not of ours"),
    ("# HELP mill_x X.\n# TYPE mill_x summary\nmill_x_sum 1\nmill_x_count 1\n", "of the type summary"),
    (BACKWARDS, "do not add up"),
]


@pytest.mark.parametrize(("text", "offence"), PLANTED)
def test_an_offence_against_the_conventions_is_found(text: str, offence: str) -> None:
    assert any(offence in found for found in offences(Scrape.parse(text, "text/plain")))


def test_a_series_that_is_there_twice_is_found() -> None:
    with pytest.raises(AssertionError, match="twice"):
        Scrape.parse('mill_x{a="1",b="2"} 1\nmill_x{b="2",a="1"} 1\n', "text/plain")


async def test_levels_are_those_of_now(metrics: Metrics, scene: Scene) -> None:
    first = await scraped(metrics)
    assert first.by("mill_tasks", "status") == {}
    ids = [await spawn(metrics.levels.tasks, cpu=2.0, memory=GIB) for _ in range(3)]
    for task_id in ids:
        await metrics.levels.tasks.wait(task_id, "running", 10)
    with pytest.raises(NoCapacity):
        await spawn(metrics.levels.tasks, cpu=999.0)
    with pytest.raises(FieldError):
        await spawn(metrics.levels.tasks, cpu=1001.0)
    page = await scraped(metrics)
    assert page.by("mill_tasks", "status") == {("running",): 3}
    cores = [page.value(f"mill_cpu_{kind}_cores") for kind in ("capacity", "reserved", "free")]
    memory = [page.value(f"mill_memory_{kind}_bytes") for kind in ("capacity", "reserved", "free")]
    assert (cores, memory) == ([1000, 6, 994], [1000 * GIB, 3 * GIB, 997 * GIB])
    assert page.by("mill_admission_refusals_total", "reason") == {("no_capacity",): 1, ("never_fits",): 1}
    assert (page.value("mill_api_connections"), page.value("mill_api_requests_in_flight")) == (3, 2)
    assert page.value("mill_containerd_up") == 0
    assert page.by("mill_build_info", "version", "node") == {(__version__, "n1"): 1}
    scene.runtime[ids[0]].end(0)
    await metrics.levels.tasks.wait(ids[0], "terminal", 10)
    assert (await scraped(metrics)).by("mill_tasks", "status") == {("running",): 2}


async def test_datagrams_that_were_refused_are_counted_by_reason(
    metrics: Metrics, tmp_path: Path, scene: Scene
) -> None:
    """From 0 on for each of them, on a node without gossip, too."""
    name, values = "mill_gossip_refusals_total", (await scraped(metrics)).values
    reasons = ["size", "version", "key", "own", "forged", "replayed"]
    assert [values.get((name, (("reason", reason),))) for reason in reasons] == [0.0] * 6
    async with node(tmp_path / "other", attrs.evolve(scene), {Refusal.FORGED: 3}) as other:
        assert (await scraped(other)).by(name, "reason") == {("forged",): 3}


async def test_the_process_tells_of_itself(metrics: Metrics) -> None:
    page = await scraped(metrics)
    assert page.value("process_resident_memory_bytes") > 10 * 2**20
    assert page.value("process_open_fds") > 5
    assert page.value("process_cpu_seconds_total") > 0
    assert abs(page.value("process_start_time_seconds") - time.time()) < 24 * 3600


async def test_nodes_of_one_process_have_pages_of_their_own(
    metrics: Metrics, tmp_path: Path, scene: Scene
) -> None:
    async with node(tmp_path / "other", attrs.evolve(scene)) as other:
        metrics.meters.on_answer(Answered("/v1/x", "GET", 200, 0.1))
        assert (await scraped(metrics)).by("mill_api_requests_total", "route") == {("/v1/x",): 1}
        assert (await scraped(other)).by("mill_api_requests_total", "route") == {}


async def test_with_300_tasks_a_page_takes_little_time_and_holds_up_nobody(metrics: Metrics) -> None:
    ids = [await spawn(metrics.levels.tasks) for _ in range(MANY)]
    for task_id in ids:
        await metrics.levels.tasks.wait(task_id, "running", 20)
    fill(metrics.meters)
    took, stalls = [], []
    for _ in range(TRIES):
        began = time.process_time()
        said = await metrics.page(PROMETHEUS)
        took.append(time.process_time() - began)
        async with stall.watching() as watched:
            await metrics.page(PROMETHEUS)
        stalls.append(watched.worst_s)
    page = Scrape.parse(said.body.decode(), said.content_type)
    print(
        f"\n{len(page.values)} series, {len(said.body)} bytes: {min(took) * 1000:.1f} ms, held up {min(stalls) * 1000:.1f} ms"
    )
    assert page.value("mill_tasks", status="running") == MANY
    assert min(took) <= PAGE_S, took
    assert min(stalls) <= STALL_S, stalls
