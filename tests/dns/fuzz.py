"""Broken and mutated messages for the parser, for so many seconds: `python -m tests.dns.fuzz --seconds 600 [--coverage]`.

Begins with the corpus beside it (one message a line, in hex) and what it makes of it by cutting, flipping, copying and
pointing. Every outcome must be a declared one, and every answer one that dnspython can read. Prints a line of JSON: how many
messages, how far memory grew after the first part, and the branch coverage of the pure modules. Run by `test_fuzz`.
"""

import argparse
import json
import os
import random
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
PURE = ("answer", "cache", "message", "names", "upstream")
WARM_UP = 0.3
"""The part of the time after which memory must stay where it is."""
CACHE_BYTES = 8192
KEPT = 4000
"""Mutants that are mutated further."""
INTERESTING = (0, 1, 2, 3, 4, 12, 16, 41, 63, 64, 127, 128, 191, 192, 193, 250, 251, 252, 255)


def seeds() -> list[bytes]:
    return [
        bytes.fromhex(line.split("#")[0])
        for path in sorted(CORPUS.glob("*.hex"))
        for line in path.read_text().splitlines()
        if line.split("#")[0].strip()
    ]


def mutate(wire: bytes, others: list[bytes], choice: random.Random) -> bytes:
    """A few changes, each of a kind that finds other holes."""
    made = bytearray(wire)
    for _ in range(choice.choice((1, 1, 2, 4, 8))):
        at = choice.randrange(len(made) + 1)
        kind = choice.randrange(9)
        if kind == 0:
            del made[at:]
        elif kind == 1:
            del made[at : at + choice.randrange(1, 9)]
        elif kind == 2:
            made[at:at] = choice.randbytes(choice.randrange(1, 9))
        elif kind == 3:
            made[at:at] = made[at : at + choice.randrange(64)]
        elif kind == 4:
            other = choice.choice(others)
            made[at:] = other[choice.randrange(len(other) + 1) :]
        elif kind == 5:
            made[at : at + 2] = bytes((192 | choice.randrange(2), choice.randrange(256)))
        elif kind == 6 and len(made) >= 12:
            struct.pack_into(
                "!H", made, choice.choice((2, 4, 6, 8, 10)), choice.choice((0, 1, 2, 0x8000, 0xFFFF))
            )
        elif at < len(made):
            made[at] = choice.choice(INTERESTING) if kind == 7 else made[at] ^ 1 << choice.randrange(8)
    return bytes(made[:4096])


class Fuzz:
    """The pure modules, imported here so that coverage sees all of them."""

    def __init__(self) -> None:
        from mill.dns import answer, cache, message, upstream  # noqa: PLC0415
        from mill.dns.names import Zone  # noqa: PLC0415
        from tests.dns import book  # noqa: PLC0415

        self.answer, self.message, self.upstream = answer, message, upstream
        self.zones = [book.ZONE, Zone(book.BOOK, book.NODE)]
        self.cache = cache.Cache(CACHE_BYTES)

    def try_query(self, wire: bytes, choice: random.Random) -> None:
        udp = choice.random() < 0.5
        made = self.answer.answer(wire, choice.choice(self.zones), udp=udp)
        if isinstance(made, self.answer.Miss):
            made = made.wire
        if isinstance(made, bytes):
            self.check_answer(made, wire, udp=udp)
        elif made is not None:
            self.try_reply(made.question, choice)

    def check_answer(self, made: bytes, wire: bytes, *, udp: bool) -> None:
        import dns.message  # noqa: PLC0415

        dns.message.from_wire(made)
        assert made[:2] == wire[:2], "another id"
        assert made[2] & 0x80, "no answer"
        assert len(made) <= (1232 if udp else 65535), "too long"

    def try_reply(self, question: Any, choice: random.Random) -> None:
        """An upstream's answer to it: a mutant of the corpus behind the very question."""
        sent = self.upstream.ask(question, choice.getrandbits(16), choice.getrandbits(64))
        body = (
            mutate(choice.choice(self.replies), self.replies, choice)
            if choice.random() < 0.8
            else choice.choice(self.replies)
        )
        parts = self.message.name_end(body, 12) + 4
        if parts < 12:
            return
        reply = self.upstream.judge(
            sent.wire[:2] + body[2:12] + sent.wire[12 : sent.end] + body[parts:], sent
        )
        if reply is not None:
            assert not (reply.truncated and reply.ttl_s), "what is cut off was to be kept"
            assert not (reply.rcode not in self.upstream.PASSED_ON and reply.ttl_s), (
                "a failure was to be kept"
            )
            if choice.random() < 0.01:
                self.cache.clear()
            now_s = choice.random() * 1000
            self.cache.put(question, reply, now_s)
            for udp in (True, False):
                self.check_answer(reply.to(question, udp=udp), question.wire, udp=udp)
                self.cache.get(question, now_s + choice.random() * 100, udp=udp)
            assert self.cache.size_bytes <= CACHE_BYTES, repr(self.cache)
            assert bool(len(self.cache)) == bool(self.cache.size_bytes)

    def try_rest(self, wire: bytes, choice: random.Random) -> None:
        """A stream in pieces, and a file."""
        frames, found, at = self.message.Frames(), 0, 0
        stream = self.message.frame(wire) + wire
        while at < len(stream):
            piece = stream[at : at + choice.randrange(1, 200)]
            at += len(piece)
            found += len(frames.feed(piece))
        assert found, "a message was lost"
        text = "".join(
            choice.choice(("nameserver ", "192.0.2.1 ", "::1", "\n", "#", chr(char))) for char in wire[:30]
        )
        for address in self.upstream.parse_resolv_conf(text):
            self.upstream.is_one_of(address, [("::", 53), address], local=choice.random() < 0.5)

    def run(self, seconds: float, choice: random.Random) -> dict[str, Any]:
        began, tried, base = time.monotonic(), 0, 0
        pool = seeds()
        self.replies = [wire for wire in pool if len(wire) > 2 and wire[2] & 0x80]
        for wire in pool:
            for zone in self.zones:
                self.answer.answer(wire, zone, udp=True)
        while (took_s := time.monotonic() - began) < seconds:
            if not base and took_s > seconds * WARM_UP:
                base = rss_bytes()
            wire = mutate(choice.choice(pool), pool, choice)
            try:
                self.try_query(wire, choice)
                self.try_rest(wire, choice)
            except BaseException:
                print(f"over {wire.hex()}", file=sys.stderr)
                raise
            tried += 1
            if choice.random() < 0.02:
                pool.append(wire) if len(pool) < KEPT else pool.__setitem__(choice.randrange(len(pool)), wire)
        return {"tried": tried, "grown_bytes": rss_bytes() - base, "seconds": seconds}


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _run(seconds: float, seed: int) -> dict[str, Any]:
    return Fuzz().run(seconds, random.Random(seed))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.dns.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--coverage", action="store_true")
    asked = parser.parse_args()
    run = partial(_run, asked.seconds, asked.seed)
    said = covered(run) if asked.coverage else run()
    print(json.dumps(said))


def covered(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """With `coverage`: the percentage of lines and branches in each pure module, and in all together."""
    import coverage  # noqa: PLC0415

    measured = coverage.Coverage(
        branch=True, data_file=None, include=[f"*/mill/dns/{name}.py" for name in PURE]
    )
    measured.start()
    said = run()
    measured.stop()
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        measured.json_report(outfile=file.name)
        report = json.load(file)
    missing = {
        name: found["missing_lines"] for name, found in report["files"].items() if found["missing_lines"]
    }
    total = report["totals"]
    branches = 100 * total["covered_branches"] / total["num_branches"]
    return {
        **said,
        "branches": round(branches, 1),
        "covered": round(total["percent_covered"], 1),
        "missing": missing,
    }


if __name__ == "__main__":
    main()
