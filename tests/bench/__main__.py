"""`python -m tests.bench start|records|dns [--rounds N]`: Mill's speed beside its peers', measured in one run."""

import argparse
import os

# gRPC's fork handlers are for programs that use it in the child; here children are other programs.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from tests.bench import dns, records, start


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("bench", choices=["start", "records", "dns"])
    parser.add_argument("--rounds", type=int, default=60, help="of `start` and `records`; seconds of `dns`")
    parser.add_argument("--records", type=int, default=100_000)
    asked = parser.parse_args()
    if asked.bench == "records":
        return 0 if records.main(asked.records, asked.rounds) else 1
    bench = dns if asked.bench == "dns" else start
    return 0 if bench.main(asked.rounds) else 1


raise SystemExit(main())
