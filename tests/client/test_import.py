"""What `import mill.client` loads, and that it costs little more than the libraries it stands on."""

import statistics
import subprocess
import sys

TRIES = 5
MOST_RATIO = 1.2
"""DESIGN section 9."""

TIMED = "import time; t = time.process_time(); import {}; print(time.process_time() - t)"
"""In time of the processor, which other work on the machine does not lengthen much."""


def cost_s(modules: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(modules)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_importing_the_client_costs_little_more_than_its_libraries() -> None:
    """Interleaved, medians: a busy machine slows both."""
    pairs = [(cost_s("trio, httpx, attrs, cattrs"), cost_s("mill.client")) for _ in range(TRIES)]
    libraries, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    assert ours <= MOST_RATIO * libraries, f"{ours:.3f} s against {libraries:.3f} s"


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_nothing_of_the_daemon_or_the_command_comes_along() -> None:
    loaded = loaded_by("import mill.client")
    ours = {name for name in loaded if name.startswith("mill.") and not name.startswith("mill.client")}
    assert ours <= {"mill.errors", "mill.checks", "mill.model", "mill.units", "mill.convert"}
    daemons = {"grpc", "google.protobuf", "quart", "hypercorn", "structlog", "prometheus_client"}
    assert sorted(loaded & daemons) == []


def test_the_command_loads_nothing_heavy_for_its_help() -> None:
    loaded = loaded_by("from mill.cli.main import cli\ntry: cli(['--help'])\nexcept SystemExit: pass")
    assert "click" in loaded
    assert sorted(loaded & {"httpx", "trio", "rich", "cattrs", "mill.client"}) == []
