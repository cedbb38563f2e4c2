"""The API of `milld` for Python programs; it runs under trio and under asyncio.

    from mill.client import Client

    async with Client() as mill:                  # MILL_ADDRESS and MILL_TOKEN, or the node's own files
        task = await mill.spawn("coop-agent", env={"SESSION_ID": "abc123"})
        async for line in mill.logs(task.id):
            print(line.stream, line.data)
        record = await mill.wait(task.id)
        print(record.status, record.reason, record.exit_code)

What comes back are values of `mill.model`. Errors are one tree: `MillError` catches everything, `ProblemError` what the
server answered, `NotFound`, `Conflict`, `NoCapacity` and so on what exactly, `ConnectionFailed` that nobody answered.
This package imports leaves only, and nothing of the daemon's side.
"""

from mill.client.calls import Call, Page, Spawned
from mill.client.client import Client, TaskPages, new_key
from mill.client.events import EventGap, EventStream, TaskEvent
from mill.client.follow import LogStream
from mill.client.lines import LogLine
from mill.client.pulls import PullStream
from mill.errors import (
    Conflict,
    ConnectionFailed,
    FieldError,
    Forbidden,
    MillError,
    NoCapacity,
    NoSpace,
    NotFound,
    ProblemError,
    TooLarge,
    Unauthorized,
    Unavailable,
)

__all__ = [
    "Call",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "EventGap",
    "EventStream",
    "FieldError",
    "Forbidden",
    "LogLine",
    "LogStream",
    "MillError",
    "NoCapacity",
    "NoSpace",
    "NotFound",
    "Page",
    "ProblemError",
    "PullStream",
    "Spawned",
    "TaskEvent",
    "TaskPages",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "new_key",
]
