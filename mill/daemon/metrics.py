"""``/v1/metrics``: what `meters` counted, and what the components' handles say now, as Prometheus reads it.

The levels are taken in the event loop, which alone may look at them; to write it all out takes milliseconds, and a thread.
"""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import TypeVar

import attrs
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from mill import __version__
from mill.api.core import Exposition
from mill.api.server import Load
from mill.containerd.flights import CANCELLED, OK, Flights
from mill.containerd.images import LocalImage
from mill.containerd.registry import Registry
from mill.containerd.session import Session
from mill.daemon.meters import Meters
from mill.dns.forward import FAILURES
from mill.dns.responder import SOURCES
from mill.dns.service import Dns
from mill.errors import PULL_DETAILS
from mill.logs.store import Logs
from mill.model import Resources
from mill.network.publish import Ports
from mill.network.relay import REFUSED_BY
from mill.security.box import Refusal
from mill.tasks.ledger import REFUSALS
from mill.tasks.service import Tasks
from mill.tasks.states import LIVE

Label = TypeVar("Label", bound=str)

PULL_RESULTS = (OK, CANCELLED, *sorted(PULL_DETAILS - {"timeout"}))
"""Only a task has a timeout for its pull; to the pull itself it is that nobody waits any more."""


@attrs.frozen
class Levels:
    """The components whose figures are read when somebody asks."""

    node: str
    tasks: Tasks
    session: Session
    flights: Flights[LocalImage]
    registry: Registry
    logs: Logs
    dns: Dns
    ports: Ports
    load: Load
    refused: Mapping[Refusal, int]
    """Datagrams of gossip, as `cluster.service.Gossip` counts them; nothing where there is none."""

    def families(self) -> Iterator[Metric]:
        """Every level and plain counter, as it is now; instant."""
        said = {"version": __version__, "containerd": self.session.features.version, "node": self.node}
        yield InfoMetricFamily("mill_build", "This milld, and what it runs on.", said)
        up = float(self.session.connected)
        yield GaugeMetricFamily("mill_containerd_up", "Whether containerd answers.", up)
        yield from self._of_tasks()
        yield from self._of_pulls()
        yield from self._of_logs()
        yield from self._of_names()
        yield from self._of_ports()
        what = "Datagrams at the port for other nodes that were not opened, by reason: key is another secret."
        yield _counters("mill_gossip_refusals", what, "reason", self.refused, Refusal)
        yield GaugeMetricFamily("mill_api_connections", "Open connections.", self.load.connections)
        what = "Requests whose answer is not all out yet; follows and waits, too."
        yield GaugeMetricFamily("mill_api_requests_in_flight", what, self.load.requests)

    def _of_tasks(self) -> Iterator[Metric]:
        found = Tally(live.task.record.status for live in self.tasks.table)
        there = GaugeMetricFamily("mill_tasks", "Tasks that have not ended, by status.", labels=["status"])
        for status in LIVE:
            there.add_metric([status], found[status])
        yield there
        ledger = self.tasks.ledger
        yield from _resources("capacity", "What this node offers to tasks", ledger.capacity)
        yield from _resources("reserved", "What is promised to tasks", ledger.reserved)
        yield from _resources("free", "What further tasks may ask for", ledger.free)
        what = "Spawns that were refused for lack of room: now (no_capacity), or on any day (never_fits)."
        yield _counters("mill_admission_refusals", what, "reason", ledger.refusals, REFUSALS)

    def _of_pulls(self) -> Iterator[Metric]:
        what = "Pulls that ended, by result; one that several tasks wait for is one."
        yield _counters("mill_image_pulls", what, "result", self.flights.outcomes, PULL_RESULTS)
        received = self.registry.received_bytes
        yield _counter("mill_image_pulled", "Bytes of layers that registries sent.", received, unit="bytes")

    def _of_logs(self) -> Iterator[Metric]:
        budget = self.logs.budget
        output, held = budget.output_bytes, budget.used_bytes
        yield _counter("mill_log_taken", "Output of tasks that was taken into logs.", output, unit="bytes")
        what = "What logs hold, with their indexes; as counted since the last look at the disk."
        yield GaugeMetricFamily("mill_log_stored", what, held, unit="bytes")
        what = "Logs dropped before their time for the limit, with their indexes; output that a full disk did not take."
        causes = {"limit": budget.dropped_bytes, "disk": budget.lost_bytes}
        yield _counters("mill_log_dropped", what, "cause", causes, causes, unit="bytes")

    def _of_names(self) -> Iterator[Metric]:
        what = "DNS queries by where the answer came from and its rcode; those that got none were dropped."
        answers = CounterMetricFamily("mill_dns_queries", what, labels=["source", "rcode"])
        counts = self.dns.counts
        for one in dict.fromkeys((*((source, code) for source, codes in SOURCES for code in codes), *counts)):
            answers.add_metric(one, counts[one])
        yield answers
        what = "Tries at a resolver that brought no answer, and questions that none was asked, by reason."
        yield _counters("mill_dns_upstream_failures", what, "reason", self.dns.failures, FAILURES)

    def _of_ports(self) -> Iterator[Metric]:
        there = self.ports.room.taken
        yield GaugeMetricFamily("mill_published_connections", "Open connections of published ports.", there)
        what = "Connections to published ports that were reset, by whose limit was reached: the port's, or the node's."
        yield _counters("mill_published_refusals", what, "limit", self.ports.refused, REFUSED_BY)


def _resources(kind: str, what: str, value: Resources) -> Iterator[Metric]:
    yield GaugeMetricFamily(f"mill_cpu_{kind}", f"{what}: cores.", value.cpu, unit="cores")
    yield GaugeMetricFamily(f"mill_memory_{kind}", f"{what}: memory.", value.memory, unit="bytes")


def _counter(name: str, what: str, value: int, *, unit: str) -> Metric:
    return CounterMetricFamily(name, what, value, unit=unit)


def _counters(
    name: str, what: str, label: str, values: Mapping[Label, int], known: Iterable[Label], *, unit: str = ""
) -> Metric:
    """One series for each value that the label may have, from 0 on: one that appears at 1 hides its first increase."""
    family = CounterMetricFamily(name, what, labels=[label], unit=unit)
    for one in dict.fromkeys((*known, *values)):
        family.add_metric([one], values.get(one, 0))
    return family


@attrs.frozen
class _Page(Collector):
    """Levels that were read, and a registry to be."""

    levels: tuple[Metric, ...]
    registry: CollectorRegistry

    def collect(self) -> Iterator[Metric]:
        for family in chain(self.levels, self.registry.collect()):
            # When a series was made: twice the lines, for what process_start_time_seconds says.
            family.samples = [one for one in family.samples if not one.name.endswith("_created")]
            yield family


@attrs.frozen
class Metrics:
    """The page. Scrapes that come at once are answered one after another, so that they cannot take up a core."""

    meters: Meters
    levels: Levels
    _one_by_one: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))

    async def page(self, accept: str) -> Exposition:
        """All metrics, in the format that the Accept header asks for: the text format, or OpenMetrics."""
        encode, content_type = choose_encoder(accept)
        page = _Page(tuple(self.levels.families()), self.meters.registry)
        body = await trio.to_thread.run_sync(partial(encode, page), limiter=self._one_by_one)
        return Exposition(content_type, body)
