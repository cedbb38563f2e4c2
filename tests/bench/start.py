"""How fast a spawn is: to `running` beside the same containerd calls made raw, to its 201 beside a bare quart-trio POST.

Both pairs are measured in one run, interleaved, on one idle node (``--cpu 64 --memory 64G``, admission unweakened); what
cleans up is over before the next measurement begins. The bounds are the design's (section 9).
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from tests.bench.raw import Raw
from tests.bench.wire import Wire
from tests.node import ROOT, Node, free_port

RUNNING_BOUND = 1.15
ANSWER_BOUND = 5.0
ANSWER_P99_BOUND = 15.0
WARM_UP = 5
REST_S = 0.15
"""Between two starts, for what the last one left to do: a pool that is warm is asked for."""
SLEEPER = {
    "image": "busybox",
    "args": ["sleep", "1000"],
    "cpu": 1,
    "memory": "64M",
    "grace": 0,
    "network": "host",
}
MESH_BOUND_MS = 3.0
"""What an address and a namespace of its own may add to a start."""
QUICK = {"image": "busybox", "args": ["true"], "cpu": 1, "memory": "64M", "name": "quick"}


@attrs.frozen
class Pair:
    """Seconds of the two sides of one comparison."""

    ours: Sequence[float]
    theirs: Sequence[float]

    def ratio(self, part: float = 0.5) -> float:
        return at(self.ours, part) / at(self.theirs, part)


def at(values: Sequence[float], part: float) -> float:
    """The median for 0.5, else the value below which *part* of them lie."""
    if part == 0.5:
        return statistics.median(values)
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


@contextmanager
def bench_node() -> Iterator[Node]:
    node = Node(name="bench", options={"cpu": "64", "memory": "64G"})
    try:
        yield node.start().load_busybox()
        node.stop()
    finally:
        node.destroy()


@contextmanager
def bare_server() -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.bare", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def spawn(http: Wire, body: dict[str, Any]) -> str:
    answer = http.post("/v1/tasks/spawn", body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def wait(http: Wire, id_: str, status: str) -> dict[str, Any]:
    record: dict[str, Any] = http.get(f"/v1/tasks/{id_}", params={"wait": status, "timeout": "30"}).json()
    return record


def to_running(http: Wire, raw: Raw, rounds: int) -> Pair:
    """POST until a waiting GET answers `running`, and the raw calls, by turns."""
    ours, theirs = [], []
    for number in range(rounds + WARM_UP):
        began = time.perf_counter()
        id_ = spawn(http, SLEEPER)
        record = wait(http, id_, "running")
        ours.append(time.perf_counter() - began)
        assert record["status"] == "running", record
        http.delete(f"/v1/tasks/{id_}", params={"grace": "0"})
        wait(http, id_, "terminal")
        raw.wait_gone(id_)
        theirs.append(raw.start(f"raw-{number}"))
        raw.remove(f"raw-{number}")
    return Pair(ours[WARM_UP:], theirs[WARM_UP:])


def to_answer(http: Wire, raw: Raw, bare: Wire, rounds: int) -> Pair:
    """POST until its 201, and the bare server's, by turns; each task has ended and is gone before the next turn."""
    ours, theirs = [], []
    for _ in range(rounds + WARM_UP):
        began = time.perf_counter()
        id_ = spawn(http, QUICK)
        ours.append(time.perf_counter() - began)
        assert wait(http, id_, "terminal")["reason"] == "exit"
        raw.wait_gone(id_)
        began = time.perf_counter()
        spawn(bare, QUICK)
        theirs.append(time.perf_counter() - began)
    return Pair(ours[WARM_UP:], theirs[WARM_UP:])


def measure(rounds: int) -> tuple[Pair, Pair]:
    with (
        bench_node() as node,
        bare_server() as bare_address,
        Wire(node.address, node.token) as http,
        Wire(bare_address) as bare,
    ):
        model = spawn(http, SLEEPER)
        wait(http, model, "running")
        raw = Raw(node.socket, model, node.home / "raw")
        try:
            return to_running(http, raw, rounds), to_answer(http, raw, bare, 2 * rounds)
        finally:
            raw.close()


def beside_host(network: str, rounds: int) -> Pair:
    """POST to `running` of a task in *network* and of one in the host's, by turns on one node."""
    with bench_node() as node:
        times: dict[str, list[float]] = {network: [], "host": []}
        with Wire(node.address, node.token) as http:
            for number in range(rounds + WARM_UP):
                for name in (network, "host") if number % 2 else ("host", network):
                    began = time.perf_counter()
                    id_ = spawn(http, {**SLEEPER, "network": name})
                    assert wait(http, id_, "running")["status"] == "running"
                    times[name].append(time.perf_counter() - began)
                    http.delete(f"/v1/tasks/{id_}", params={"grace": "0"})
                    wait(http, id_, "terminal")
                    time.sleep(REST_S)
        return Pair(times[network][WARM_UP:], times["host"][WARM_UP:])


def main_beside_host(network: str, rounds: int) -> bool:
    pair = beside_host(network, rounds)
    print(f"POST to running, {rounds} rounds by turns, load {os.getloadavg()[0]:.1f}")
    print(f"  {'milliseconds':<38}{'median':>9}{'p90':>9}{'p99':>9}")
    print(row(f"network {network}", pair.ours))
    print(row("network host", pair.theirs))
    each = [(a - b) * 1000 for a, b in zip(pair.ours, pair.theirs, strict=True)]
    added = (at(pair.ours, 0.5) - at(pair.theirs, 0.5)) * 1000
    print(f"  added: {added:.2f} ms by the medians, {at(each, 0.5):.2f} ms by the median of the pairs")
    print(f"  bound {MESH_BOUND_MS:g} ms: {'held' if added <= MESH_BOUND_MS else 'NOT HELD'}")
    return added <= MESH_BOUND_MS


def row(what: str, values: Sequence[float]) -> str:
    return f"  {what:<38}{at(values, 0.5) * 1000:9.2f}{at(values, 0.9) * 1000:9.2f}{at(values, 0.99) * 1000:9.2f}"


def verdict(what: str, ratio: float, bound: float) -> str:
    return f"  {what:<38}{ratio:9.2f}   bound {bound:g}: {'held' if ratio <= bound else 'NOT HELD'}"


def main(rounds: int) -> bool:
    """Print the table; whether every bound holds."""
    running, answer = measure(rounds)
    load = os.getloadavg()[0]
    print(
        f"spawn, cached image, idle node; {rounds} rounds interleaved, {os.cpu_count()} cores, load {load:.1f}"
    )
    print(f"  {'milliseconds':<38}{'median':>9}{'p90':>9}{'p99':>9}")
    print(row("POST to running, milld", running.ours))
    print(row("the same containerd calls, raw", running.theirs))
    print(row("POST to 201, milld", answer.ours))
    print(row("POST to 201, bare quart-trio", answer.theirs))
    bounds = [
        ("to running: median / raw median", running.ratio(), RUNNING_BOUND),
        ("to 201: median / bare median", answer.ratio(), ANSWER_BOUND),
        ("to 201: p99 / bare p99", answer.ratio(0.99), ANSWER_P99_BOUND),
    ]
    print("\n".join(verdict(*bound) for bound in bounds))
    return all(ratio <= bound for _, ratio, bound in bounds)
