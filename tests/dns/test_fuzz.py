"""The pure part under mutated messages: some seconds always, ten minutes with ``MILL_LONG=1``.

In processes of their own: coverage must see the imports, and memory must be nobody else's.
"""

import json
import os
import subprocess
import sys
from typing import Any

from tests.node import ROOT

LONG = bool(os.environ.get("MILL_LONG"))
SECONDS = 600 if LONG else 4
MOST_GROWN_BYTES = 8 * 1024 * 1024
"""The pool of mutants and dnspython's tables fill for a while; what leaks with every message grows far beyond."""
LEAST_BRANCHES = 95.0


def fuzz(*options: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.dns.fuzz", *options],
        check=False, capture_output=True, text=True, cwd=ROOT, timeout=SECONDS + 120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_only_declared_outcomes_leave_the_parser_and_memory_stays_flat() -> None:
    said = fuzz(f"--seconds={SECONDS}", f"--seed={os.getpid()}")
    print(said)
    assert said["tried"] > 200 * SECONDS
    assert said["grown_bytes"] < MOST_GROWN_BYTES


def test_nearly_every_branch_of_the_pure_part_is_reached_by_it() -> None:
    said = fuzz("--seconds=6", "--coverage")
    print(said)
    assert said["branches"] >= LEAST_BRANCHES, said
