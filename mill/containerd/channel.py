"""What `session` and `stream` need of grpc itself: a channel to a socket, and waiting for a call in trio."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import trio

from mill.units import MIB

MESSAGE_BYTES = 16 * MIB
"""Largest message either way: containerd's own limit."""

RECONNECT_FIRST_MS, RECONNECT_MOST_MS = 100, 500
"""Between attempts to connect. grpc's own default grows to two minutes; a containerd that was restarted is back sooner."""

_OPTIONS = [
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_FIRST_MS),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_MOST_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MOST_MS),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # no state shared with another channel to the same socket
    ("grpc.default_authority", "localhost"),
]


def open_channel(socket: str) -> Any:
    """A channel to the unix socket at *socket*. It connects when first used, and again when that ends."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines on stderr tell users nothing
    return grpc.insecure_channel("unix://" + quote(str(Path(socket).absolute())), options=_OPTIONS)


def outcome_of(call: Any) -> tuple[str, str]:
    """Name of the status code and its text, of a grpc call that has ended."""
    return call.code().name, call.details() or ""


async def completed(future: Any) -> None:
    """Until grpc's future is done; cancelling this cancels the call."""
    task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
    waiting = True

    def wake() -> None:
        nonlocal waiting
        if waiting:
            waiting = False
            trio.lowlevel.reschedule(task)

    def on_done(_: object) -> None:
        with suppress(trio.RunFinishedError):  # the call was cancelled together with the loop
            token.run_sync_soon(wake)

    def abort(_: object) -> trio.lowlevel.Abort:
        nonlocal waiting
        waiting = False
        future.cancel()
        return trio.lowlevel.Abort.SUCCEEDED

    future.add_done_callback(on_done)
    await trio.lowlevel.wait_task_rescheduled(abort)
