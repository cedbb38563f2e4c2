"""`python -m tests.bench start|records [--rounds N]`: Mill's speed beside its peers', measured in one run."""

import argparse
import os

# gRPC's fork handlers are for programs that use it in the child; here children are other programs.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from tests.bench import records, start


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("bench", choices=["start", "records"])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--records", type=int, default=100_000)
    asked = parser.parse_args()
    if asked.bench == "records":
        return 0 if records.main(asked.records, asked.rounds) else 1
    return 0 if start.main(asked.rounds) else 1


raise SystemExit(main())
