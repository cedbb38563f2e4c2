"""How fast names are: `dnsperf` on loopback at a steady rate, and the highest rate without loss beside dnsmasq's in one run.

Both answer names that they know: milld those of tasks that run, dnsmasq the same from a hosts file of the bench's. Needs
Debian's dnsperf and dnsmasq-base; dnsmasq is started here with a configuration of its own and touches nothing of the host's.
"""

import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.bench.start import bench_node, spawn, wait
from tests.bench.wire import Wire
from tests.node import Node, free_port

RATE = 5000
P99_BOUND_S = 0.005
CPU_BOUND = 0.6
"""Of one core, at `RATE`: "well under one"."""
REACHED = 0.95
"""Of a rate; dnsperf's own pace varies."""
TASKS = 10
PROBE_S = 4
RATES = (5000, 7500, 10000, 12500, 15000, 20000, 25000, 30000, 40000, 60000, 80000)
SLEEPER = {"image": "busybox", "args": ["sleep", "1000"], "cpu": 0.1, "memory": "16M", "grace": 0}


@attrs.frozen
class Measured:
    """One run of dnsperf: queries a second, those lost, latencies in seconds, and the cores that the server used."""

    rate: float
    lost: int
    mean_s: float
    p99_s: float
    cores: float


def cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def dnsperf(port: int, names: Path, rate: int, seconds: float, pid: int) -> Measured:
    """At *rate*, each query with 2 s to be answered."""
    before, began = cpu_seconds(pid), time.monotonic()
    done = subprocess.run(
        ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(names), "-l", f"{seconds:g}", "-Q", str(rate),
         "-c", "4", "-q", "2000", "-t", "2", "-e", "-v"],
        check=True, capture_output=True, text=True, timeout=seconds + 60,
    )  # fmt: skip
    cores = (cpu_seconds(pid) - before) / (time.monotonic() - began)
    return read(done.stdout, cores)


def read(said: str, cores: float) -> Measured:
    """What dnsperf printed with ``-v``: a line for each answer, whose last word is its latency, and the statistics."""
    latencies = sorted(
        float(line.rpartition(" ")[2]) for line in said.splitlines() if line.startswith("> NOERROR")
    )
    lost = re.search(r"Queries lost:\s+(\d+)", said)
    sent = re.search(r"Queries sent:\s+(\d+)", said)
    rate = re.search(r"Queries per second:\s+([\d.]+)", said)
    assert lost is not None, said[-2000:]
    assert sent is not None
    assert rate is not None
    wrong = int(sent[1]) - int(lost[1]) - len(latencies)
    assert wrong == 0, f"{wrong} answers were no answers"
    mean_s = sum(latencies) / max(1, len(latencies))
    return Measured(float(rate[1]), int(lost[1]), mean_s, latencies[int(len(latencies) * 0.99)], cores)


def highest(port: int, names: Path, pid: int, rates: Sequence[int] = RATES) -> Measured | None:
    """The last of *rates* that is reached without a loss; each gets a second chance."""
    best = None
    for rate in rates:
        for _ in range(2):
            got = dnsperf(port, names, rate, PROBE_S, pid)
            if not got.lost and got.rate > REACHED * rate:
                best = got
                break
        else:
            break
    return best


@contextmanager
def dnsmasq(folder: Path, names: Sequence[str], address: str) -> Iterator[tuple[int, int]]:
    """Its port and pid, once it answers."""
    port = free_port()
    (folder / "hosts").write_text("".join(f"{address} {name}\n" for name in names))
    command = [
        "dnsmasq", "--keep-in-foreground", f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv",
        "--no-hosts", f"--addn-hosts={folder / 'hosts'}", "--conf-file=/dev/null", "--pid-file=", "--user=root",
        "--local-ttl=1",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            asking = ["dig", "@127.0.0.1", "-p", str(port), "+short", "+time=1", "+tries=20", names[0]]
            assert (
                subprocess.run(asking, check=True, capture_output=True, text=True).stdout.strip() == address
            )
            yield port, process.pid
        finally:
            process.terminate()


def tasks(node: Node, count: int) -> list[str]:
    """The names of as many running tasks."""
    with Wire(node.address, node.token) as http:
        ids = [spawn(http, SLEEPER) for _ in range(count)]
        assert {wait(http, id_, "running")["status"] for id_ in ids} == {"running"}
    return [f"{id_}.mill" for id_ in ids]


@attrs.frozen
class Result:
    steady: Measured
    their_steady: Measured
    ours: Measured | None
    theirs: Measured | None


def measure(seconds: float, rate: int = RATE, rates: Sequence[int] = RATES) -> Result:
    with bench_node() as node:
        found = tasks(node, TASKS)
        names = node.home / "names"
        names.write_text("".join(f"{name} A\n" for name in found))
        steady = dnsperf(node.dns_port, names, rate, seconds, node.pid)
        ours = highest(node.dns_port, names, node.pid, rates)
        with dnsmasq(node.home, found, "192.0.2.1") as (port, pid):
            their_steady = dnsperf(port, names, rate, seconds, pid)
            theirs = highest(port, names, pid, rates)
        return Result(steady, their_steady, ours, theirs)


def row(what: str, got: Measured | None) -> str:
    if got is None:
        return f"  {what:<34}  lost queries even at the lowest rate"
    figures = f"{got.rate:10.0f}{got.lost:7}{got.mean_s * 1000:10.2f}{got.p99_s * 1000:9.2f}{got.cores:8.2f}"
    return f"  {what:<34}{figures}"


def verdict(what: str, held: bool) -> str:  # noqa: FBT001 -- a line of a table
    return f"  {what}: {'held' if held else 'NOT HELD'}"


def main(seconds: float) -> bool:
    """Print the table; whether every bound holds."""
    got = measure(seconds)
    print(f"{TASKS} running tasks' names by dnsperf; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"  {'':<34}{'q/s':>10}{'lost':>7}{'mean ms':>10}{'p99 ms':>9}{'cores':>8}")
    print(row(f"milld, {RATE} q/s for {seconds:g} s", got.steady))
    print(row(f"dnsmasq, {RATE} q/s for {seconds:g} s", got.their_steady))
    print(row("milld, highest rate without loss", got.ours))
    print(row("dnsmasq, highest rate without loss", got.theirs))
    bounds = [
        (f"{RATE} q/s: none lost", got.steady.lost == 0 and got.steady.rate > REACHED * RATE),
        (f"{RATE} q/s: p99 <= {P99_BOUND_S * 1000:g} ms", got.steady.p99_s <= P99_BOUND_S),
        (f"{RATE} q/s: at most {CPU_BOUND:g} cores", got.steady.cores <= CPU_BOUND),
    ]
    print("\n".join(verdict(*bound) for bound in bounds))
    return all(held for _, held in bounds)
