"""`python -m tests.bench start|records|dns|logs [--rounds N]`: Mill's speed beside its peers', measured in one run."""

import argparse
import os

# gRPC's fork handlers are for programs that use it in the child; here children are other programs.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from tests.bench import dns, logs, records, start


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("bench", choices=["start", "records", "dns", "logs"])
    parser.add_argument("--rounds", type=int, help="seconds of `dns`; 5 of `logs`, else 60 unless said")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--network", help="of start, instead: in this network beside the host's")
    asked = parser.parse_args()
    asked.rounds = asked.rounds or (5 if asked.bench == "logs" else 60)
    if asked.bench == "records":
        return 0 if records.main(asked.records, asked.rounds) else 1
    if asked.bench == "dns":
        return 0 if dns.main(asked.rounds) else 1
    if asked.bench == "logs":
        return 0 if logs.main(asked.rounds) else 1
    held = start.main_beside_host(asked.network, asked.rounds) if asked.network else start.main(asked.rounds)
    return 0 if held else 1


raise SystemExit(main())
