"""What a node counts as it happens, for ``/v1/metrics``: the hooks that components are given, and the loop's lag.

With `metrics`, the only place that knows Prometheus. Each node has a registry of its own; nothing outlives milld, so that
all begins at 0 when it starts.
"""

import attrs
import trio
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.process_collector import ProcessCollector

from mill.api.core import Answered
from mill.config import LAG_INTERVAL_S
from mill.model import Record, Status
from mill.tasks.states import ENDS

_CALL_BUCKETS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5)
_ANSWER_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0)
"""Few, since each is a line for every method, and for every route with its methods and statuses."""
_DNS_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LAG_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_PULL_BUCKETS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_START_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_RUN_BUCKETS_S = (0.1, 0.5, 1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)

_UNTIMED_CALLS = frozenset({"Tasks.Wait"})
"""It lasts as long as its task."""


@attrs.frozen(eq=False)
class _Tasks:
    ends: Counter
    pull: Histogram
    start: Histogram
    run: Histogram

    @classmethod
    def of(cls, registry: CollectorRegistry) -> "_Tasks":
        def phase(name: str, help_: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(
                f"mill_task_{name}_duration", help_, unit="seconds", buckets=buckets, registry=registry
            )

        ends = Counter(
            "mill_task_ends",
            "Tasks that ended, by status and reason.",
            ["status", "reason"],
            registry=registry,
        )
        for status, reason in ENDS:
            ends.labels(status, reason)  # a series that appears at 1 hides its first increase
        return cls(
            ends,
            phase(
                "pull", "From the spawn to the image, for tasks that had to wait for a pull.", _PULL_BUCKETS_S
            ),
            phase("start", "From the image to the start of the container's first process.", _START_BUCKETS_S),
            phase("run", "From the start of the container's first process to its end.", _RUN_BUCKETS_S),
        )


@attrs.frozen(eq=False)
class Meters:
    """The hooks. Each is cheap and never fails; all are called in the event loop."""

    registry: CollectorRegistry
    _tasks: _Tasks
    _calls: Histogram
    _call_errors: Counter
    _answers: Counter
    _answer_seconds: Histogram
    _lag: Histogram
    _asked: Histogram
    _by_path: dict[str, tuple[str, Histogram | None]] = attrs.field(factory=dict)
    """A method's label and its series, by path: finding them anew takes longer than counting."""

    @classmethod
    def make(cls) -> "Meters":
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def histogram(name: str, help_: str, labels: list[str], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, help_, labels, unit="seconds", buckets=buckets, registry=registry)

        calls = "mill_containerd_call"
        answers = "mill_api_request"
        answered = ["route", "method", "code"]
        lag = "How much later than asked for the event loop woke a sleeper; sampled a few times a second."
        return cls(
            registry,
            _Tasks.of(registry),
            histogram(
                f"{calls}_duration", "Unary calls to containerd, by method.", ["method"], _CALL_BUCKETS_S
            ),
            Counter(
                f"{calls}_errors",
                "Unary calls to containerd that it refused or did not answer, by method and status code.",
                ["method", "code"],
                registry=registry,
            ),
            Counter(f"{answers}s", "Requests that were answered.", answered, registry=registry),
            histogram(
                f"{answers}_duration",
                "From a request to the beginning of its answer; without requests that wait for a task.",
                answered,
                _ANSWER_BUCKETS_S,
            ),
            histogram("mill_event_loop_lag", lag, [], _LAG_BUCKETS_S),
            histogram(
                "mill_dns_upstream_duration",
                "From a question that resolvers were asked to its answer, or to the end of all tries.",
                [],
                _DNS_BUCKETS_S,
            ),
        )

    def on_commit(self, before: Record, after: Record) -> None:
        """As `tasks.table.OnCommit`."""
        if before.status is after.status:
            return
        times = after.times
        if before.status is Status.PULLING and times.pulled is not None and not after.status.terminal:
            self._tasks.pull.observe(max(0.0, times.pulled - times.created))
        if after.status is Status.RUNNING and times.started is not None and times.pulled is not None:
            self._tasks.start.observe(max(0.0, times.started - times.pulled))
        if after.status.terminal:
            self._tasks.ends.labels(after.status, after.reason).inc()
            if times.started is not None and times.finished is not None:
                self._tasks.run.observe(max(0.0, times.finished - times.started))

    def on_call(self, path: str, seconds: float, code: str) -> None:
        """As `containerd.session.OnCall`."""
        found = self._by_path.get(path)
        if found is None:
            found = self._by_path[path] = self._series_of(path)
        method, series = found
        if series is not None:
            series.observe(seconds)
        if code != "OK":
            self._call_errors.labels(method, code).inc()

    def _series_of(self, path: str) -> tuple[str, Histogram | None]:
        """``/containerd.services.tasks.v1.Tasks/Create`` is called ``Tasks.Create``."""
        method = path.rpartition(".")[2].replace("/", ".")
        return method, None if method in _UNTIMED_CALLS else self._calls.labels(method)

    def on_answer(self, answered: Answered) -> None:
        """As `api.core.Core` asks."""
        labels = (answered.route, answered.method, f"{answered.status // 100}xx")
        self._answers.labels(*labels).inc()
        if answered.seconds is not None:
            self._answer_seconds.labels(*labels).observe(answered.seconds)

    def on_asked(self, seconds: float) -> None:
        """As `dns.forward.OnAsked`."""
        self._asked.observe(seconds)

    async def watch_lag(self) -> None:
        """Sample the event loop's lag, for ever."""
        while True:
            due = trio.current_time() + LAG_INTERVAL_S
            await trio.sleep_until(due)
            self._lag.observe(max(0.0, trio.current_time() - due))


async def serve(*, task_status: trio.TaskStatus[Meters]) -> None:
    """The node's meters; the lag is sampled until cancelled."""
    meters = Meters.make()
    task_status.started(meters)
    await meters.watch_lag()
