"""The least that quart-trio and hypercorn do for a POST with a JSON body and answer: `python -m tests.bench.bare PORT`.

What the 201 of a spawn is held against. Prints one line when it listens. Started by `start`, in a process of its own.
"""

import sys
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import request
from quart_trio import QuartTrio

app = QuartTrio(__name__)


@app.post("/v1/tasks/spawn")
async def spawn() -> tuple[dict[str, Any], int]:
    asked = await request.get_json()
    return {"id": "bare-0000", "address": "bare-0000.mill:8080", "node": "bare", "status": asked["name"]}, 201


async def main(port: int) -> None:
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.loglevel = "ERROR"
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, app, config)
        print("ready", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
