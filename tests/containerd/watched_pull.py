"""Twenty pulls of one image at once in a process set up as milld is: ``python -m tests.containerd.watched_pull SOCKET REF ROUNDS``.

What else lives in the test runner (a heap of a million objects, whose collection takes 0.1 s) is not milld's, so the loop
is watched where nothing but Mill runs. Prints a JSON object for each round; the image is removed after each.
"""

import json
import sys
from functools import partial

import attrs
import trio

from mill.containerd import rpcs
from mill.containerd import session as session_service
from mill.containerd.proto import images_pb2
from mill.containerd.session import Session
from mill.daemon.main import settle
from mill.model import PullProgress
from tests import stall
from tests.containerd.stores import MISSING, start_images

CALLERS = 20


async def main(socket: str, ref: str, rounds: int) -> None:
    async with trio.open_nursery() as nursery:
        session: Session = await nursery.start(session_service.serve, socket)
        images = await start_images(nursery, session)
        settle()
        for _ in range(rounds):
            told: list[list[PullProgress]] = [[] for _ in range(CALLERS)]
            async with stall.watching() as stalls, trio.open_nursery() as callers:
                for progress in told:
                    callers.start_soon(partial(images.ensure, ref, MISSING, on_progress=progress.append))
            steps = [[step.done for step in progress] for progress in told]
            totals = [progress[-1].total for progress in told]
            print(json.dumps({**attrs.asdict(stalls), "steps": steps, "totals": totals}), flush=True)
            request = images_pb2.DeleteImageRequest(name=ref, sync=True)
            await session.call(rpcs.IMAGES_DELETE, request)
            assert await images.find(ref) is None
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
