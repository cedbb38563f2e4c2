"""A process that runs a log store and may be killed at any moment. Run by `test_crashes` as a script of its own.

It forks once for each line on its stdin, so that a new store costs no imports: the child opens the task named there, says
``open <pid>`` and captures until it is killed. Segments are small, so that many begin and end while lines come.
"""

import os
import sys
import time
from pathlib import Path

import trio

from mill.logs import segments, store
from mill.units import KIB


async def capture(data_dir: Path, task_id: str) -> None:
    async with trio.open_nursery() as nursery:
        logs = await nursery.start(store.serve, data_dir, time.time)
        await (await logs.open(task_id)).wait_held()
        print("open", os.getpid(), flush=True)
        await trio.sleep_forever()


def main() -> None:
    segments.SEGMENT_BYTES = 64 * KIB
    data_dir = Path(sys.argv[1])
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if not child:
            print("forked", os.getpid(), flush=True)
            trio.run(capture, data_dir, line.strip())
        os.waitpid(child, 0)
        print("ended", child, flush=True)


if __name__ == "__main__":
    main()
