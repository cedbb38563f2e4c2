"""How fast logs are stored, beside Docker's json-file in one run, and how soon a follower sees a line.

The same program in the same image, by turns: it prints a file of lines of 100 bytes over and over. Time runs from the
writer's start until the client hears that it has ended and the store holds every line; CPU time is that of everything
but the writer: daemons, containerd, shims, the log holder, runc. Both keep their logs on one file system, which is
synced between turns. milld keeps to its limit, as always: from the second turn on what is older goes while it stores;
Docker has none unless told. The bounds are the design's (section 9). Needs Debian's docker.io.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import trio

from mill.client import Client
from tests.bench.cputime import CpuTime, cpu_time
from tests.bench.start import at, row, spawn, wait
from tests.bench.wire import Wire
from tests.docker import Docker, docker
from tests.images import OciImage, busybox_layer, make_layer, write_docker_archive
from tests.node import Node

THROUGHPUT_BOUND = 5.0
CPU_BOUND = 0.2
LINE_BYTES = 100
FILE_LINES = 10_000
COPIES = 300
"""Of the file: 300 MB together."""
TICKS = 250
TICK_S = 0.02
IMAGE = "lines"
SPEC: Mapping[str, Any] = {"image": IMAGE, "cpu": 1, "memory": "64M", "network": "host"}


def writer(copies: int) -> list[str]:
    """One process, which has the kernel move its lines: not what either side waits for."""
    return ["cat", *["/lines"] * copies]


def ticker(ticks: int) -> list[str]:
    """Lines that say when they were written: seconds since 1970, with six digits of a fraction. `ts` writes at its end."""
    return ["sh", "-c", f"for i in $(seq {ticks}); do echo | ts %.s; sleep {TICK_S:g}; done"]


def lines_image() -> OciImage:
    lines = b"".join(b"%06d %s\n" % (n, b"x" * (LINE_BYTES - 8)) for n in range(FILE_LINES))
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return OciImage([busybox_layer(), make_layer({"lines": lines})], {"Env": [path]})


@attrs.frozen
class Stored:
    """Of one writer's output: seconds until all of it was stored, and seconds of CPU that this took."""

    took_s: float
    cpu_s: float


@attrs.frozen
class Mill:
    node: Node
    cpu: CpuTime
    http: Wire

    def store(self, copies: int) -> Stored:
        before = self.cpu.seconds()
        id_ = spawn(self.http, {**SPEC, "args": writer(copies)})
        record = wait(self.http, id_, "terminal")
        ended = time.time()
        assert (record["reason"], record["exit_code"]) == ("exit", 0), record
        stored = sum(file.stat().st_size for file in (self.node.data_dir / "logs" / id_).glob("stdout.*.log"))
        assert stored == copies * FILE_LINES * LINE_BYTES, f"{stored} bytes stored"
        while wait(self.http, id_, "terminal")["times"]["cleaned"] is None:
            time.sleep(0.01)
        return Stored(ended - seconds(record["times"]["started"]), self.cpu.seconds() - before)

    def latencies(self, ticks: int) -> list[float]:
        return trio.run(self._follow, spawn(self.http, {**SPEC, "args": ticker(ticks)}))

    async def _follow(self, id_: str) -> list[float]:
        async with Client(self.node.address, self.node.token) as client:
            return [time.time() - float(line.data) async for line in client.logs(id_)]


@attrs.frozen
class Theirs:
    docker: Docker
    cpu: CpuTime

    def store(self, copies: int) -> Stored:
        before = self.cpu.seconds()
        id_ = self.docker.create(IMAGE, writer(copies))
        self.docker.start(id_)
        found = self.docker.wait(id_)
        ended = time.time()
        assert found["State"]["ExitCode"] == 0, found["State"]
        stored = count_lines(Path(found["LogPath"]))
        assert stored == copies * FILE_LINES, f"{stored} lines stored"
        result = Stored(ended - seconds(found["State"]["StartedAt"]), self.cpu.seconds() - before)
        self.docker.remove(id_)
        return result

    def latencies(self, ticks: int) -> list[float]:
        id_ = self.docker.create(IMAGE, ticker(ticks))
        self.docker.start(id_)
        asked = {"stdout": "true", "follow": "true"}
        with self.docker.http.stream("GET", f"/containers/{id_}/logs", params=asked) as answer:
            found = [time.time() - float(line) for line in frames(answer.iter_raw())]
        self.docker.remove(id_)
        return found


def frames(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a log as Docker sends them: one byte for the stream, three of nothing, four of length, the line."""
    left = b""
    for chunk in chunks:
        left += chunk
        while len(left) >= 8 and len(left) >= (end := 8 + int.from_bytes(left[4:8], "big")):
            yield left[8:end]
            left = left[end:]


def seconds(moment: str) -> float:
    """Since 1970, of a time as both APIs write it."""
    return datetime.fromisoformat(moment).timestamp()


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))


@contextmanager
def mill_side(archive: Path) -> Iterator[Mill]:
    node = Node(name="bench", options={"cpu": "64", "memory": "64G"})
    with cpu_time() as cpu:
        try:
            node.start()
            with archive.open("rb") as body:
                assert node.api("POST", "/v1/images/load", content=body).is_success
            cpu.take(node.at_rest())
            with Wire(node.address, node.token) as http:
                yield Mill(node, cpu, http)
            node.stop()
        finally:
            node.destroy()


@contextmanager
def docker_side(archive: Path) -> Iterator[Theirs]:
    with cpu_time() as cpu, docker() as made:
        made.load(archive)
        cpu.take(made.pids)
        yield Theirs(made, cpu)


def alone_s(copies: int) -> float:
    """How long the writer takes when whoever reads its pipe throws everything away."""
    with tempfile.NamedTemporaryFile() as lines:
        lines.write(b"x" * FILE_LINES * LINE_BYTES)
        lines.flush()
        began = time.perf_counter()
        with subprocess.Popen(["busybox", "cat", *[lines.name] * copies], stdout=subprocess.PIPE) as process:
            subprocess.run(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began


@attrs.frozen
class Result:
    ours: Sequence[Stored]
    theirs: Sequence[Stored]
    our_latencies: Sequence[float]
    their_latencies: Sequence[float]
    alone: Sequence[float]


def measure(rounds: int, copies: int = COPIES, ticks: int = TICKS) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        archive = write_docker_archive(Path(folder) / "lines.tar", {f"{IMAGE}:latest": lines_image()})
        with mill_side(archive) as ours, docker_side(archive) as theirs:
            stored: dict[type, list[Stored]] = {Mill: [], Theirs: []}
            latencies: dict[type, list[float]] = {Mill: [], Theirs: []}
            for number in range(rounds + 1):  # the first is for warming up
                for side in (ours, theirs) if number % 2 else (theirs, ours):
                    stored[type(side)].append(side.store(copies))
                    os.sync()
            for side in (ours, theirs, theirs, ours):
                latencies[type(side)] += side.latencies(ticks)
            alone = [alone_s(copies) for _ in range(3)]
            return Result(stored[Mill][1:], stored[Theirs][1:], latencies[Mill], latencies[Theirs], alone)


def figures(what: str, values: Sequence[float], copies: int) -> str:
    middle = at(values, 0.5)
    return f"  {what:<38}{middle:9.2f}{min(values):9.2f}{max(values):9.2f}{copies * FILE_LINES * LINE_BYTES / middle / 1e6:9.0f}"


def verdict(what: str, ratio: float, sign: str, bound: float) -> str:
    held = ratio >= bound if sign == ">=" else ratio <= bound
    return f"  {what:<38}{ratio:9.3f}   bound {sign} {bound:g}: {'held' if held else 'NOT HELD'}"


def main(rounds: int) -> bool:
    """Print the table; whether every bound holds."""
    got = measure(rounds)
    size = COPIES * FILE_LINES * LINE_BYTES // 10**6
    print(
        f"{size} MB of lines of {LINE_BYTES} bytes, {rounds} rounds by turns, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(f"  {'seconds':<38}{'median':>9}{'least':>9}{'most':>9}{'MB/s':>9}")
    print(figures("to store it, Mill", [one.took_s for one in got.ours], COPIES))
    print(figures("to store it, Docker's json-file", [one.took_s for one in got.theirs], COPIES))
    print(figures("CPU, Mill", [one.cpu_s for one in got.ours], COPIES))
    print(figures("CPU, Docker's json-file", [one.cpu_s for one in got.theirs], COPIES))
    print(figures("the writer alone, into a pipe", got.alone, COPIES))
    print(f"  {f'milliseconds, {len(got.our_latencies)} lines':<38}{'median':>9}{'p90':>9}{'p99':>9}")
    print(row("written to followed, mill.client", got.our_latencies))
    print(row("written to followed, Docker's API", got.their_latencies))
    speed = at([one.took_s for one in got.theirs], 0.5) / at([one.took_s for one in got.ours], 0.5)
    cpu = at([one.cpu_s for one in got.ours], 0.5) / at([one.cpu_s for one in got.theirs], 0.5)
    print(verdict("throughput, Mill / Docker", speed, ">=", THROUGHPUT_BOUND))
    print(verdict("CPU, Mill / Docker", cpu, "<=", CPU_BOUND))
    return speed >= THROUGHPUT_BOUND and cpu <= CPU_BOUND
