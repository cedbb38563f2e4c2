"""`python -m tests.bench start [--rounds N]`: Mill's speed beside its peers', measured in one run."""

import argparse
import os

# gRPC's fork handlers are for programs that use it in the child; here children are other programs.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from tests.bench import start


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("bench", choices=["start"])
    parser.add_argument("--rounds", type=int, default=60)
    asked = parser.parse_args()
    return 0 if start.main(asked.rounds) else 1


raise SystemExit(main())
