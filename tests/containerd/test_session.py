"""Calls, faults and the life of a session, against a real containerd and against servers of ours that misbehave."""

import socket as sockets
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc
import pytest
import trio
from google.protobuf.empty_pb2 import Empty

from mill.containerd import rpcs
from mill.containerd import session as session_service
from mill.containerd.channel import completed
from mill.containerd.faults import (
    RpcAlreadyExists,
    RpcError,
    RpcNotFound,
    RpcTimeout,
    RpcUnavailable,
    fault_of,
)
from mill.containerd.proto import (
    containers_pb2,
    content_pb2,
    events_pb2,
    leases_pb2,
    namespaces_pb2,
    tasks_pb2,
)
from mill.containerd.session import Session, opened, probe
from mill.containerd.stream import ServerStream
from mill.errors import SetupError, Unavailable
from tests.containerd.wire import bridge_threads, forget_ingest, grpc_server, hung_server, until


async def test_a_session_knows_whom_it_talks_to(session: Session) -> None:
    assert session.connected
    assert session.features.version[0] in "12"
    assert "io.containerd.grpc.v1.tasks" in session.features.plugins
    assert session.features.snapshotter in {"overlayfs", "native"}
    assert "io.containerd.grpc.v1.cri" not in session.features.plugins


async def test_the_namespace_is_made(session: Session) -> None:
    answer = await session.call(rpcs.NAMESPACES_GET, namespaces_pb2.GetNamespaceRequest(name="mill"))
    assert answer.namespace.name == "mill"


async def test_codes_become_faults_of_their_own(session: Session) -> None:
    with pytest.raises(RpcNotFound) as missing:
        await session.call(rpcs.TASKS_GET, tasks_pb2.GetRequest(container_id="none"))
    assert missing.value.code == "NOT_FOUND"
    assert "\n" not in str(missing.value)
    nameless = containers_pb2.CreateContainerRequest(container=containers_pb2.Container(id="/"))
    with pytest.raises(RpcError) as invalid:
        await session.call(rpcs.CONTAINERS_CREATE, nameless)
    assert invalid.value.code == "INVALID_ARGUMENT"
    lease = leases_pb2.CreateRequest(id="twice")
    await session.call(rpcs.LEASES_CREATE, lease)
    with pytest.raises(RpcAlreadyExists):
        await session.call(rpcs.LEASES_CREATE, lease)
    await session.call(rpcs.LEASES_DELETE, leases_pb2.DeleteRequest(id="twice"))


def test_a_fault_of_an_unknown_code_keeps_code_and_text() -> None:
    fault = fault_of("DATA_LOSS", "two\n  lines")
    assert (type(fault), fault.code, fault.message) == (RpcError, "DATA_LOSS", "two\n  lines")
    assert str(fault) == "containerd refused (DATA_LOSS): two lines"


def test_not_reaching_containerd_is_an_answer_to_try_again() -> None:
    fault = fault_of("UNAVAILABLE", "gone")
    assert isinstance(fault, Unavailable)
    assert (fault.status, str(fault)) == (503, "containerd cannot be reached: gone")


async def test_calls_run_side_by_side(session: Session) -> None:
    answers = []

    async def ask() -> None:
        answers.append((await session.call(rpcs.VERSION, Empty())).version)

    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(ask)
    assert answers == [session.features.version] * 200


async def test_a_cancelled_call_is_cancelled_on_the_wire(data_dir: Path) -> None:
    arrived, cancelled = threading.Event(), threading.Event()

    def wait(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(cancelled.set)
        arrived.set()
        cancelled.wait(10)
        return b""

    with (
        grpc_server(data_dir / "s", {rpcs.VERSION: grpc.unary_unary_rpc_method_handler(wait)}),
        opened(str(data_dir / "s"), "mill") as session,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(session.call, rpcs.VERSION, Empty(), timeout_s=None))
            await until(arrived.is_set)
            assert not cancelled.is_set()
            nursery.cancel_scope.cancel()
        await until(cancelled.is_set, within_s=3)  # the handler itself gives up after ten


async def test_every_call_that_ends_is_told_with_its_time_and_code(data_dir: Path) -> None:
    go_on = threading.Event()

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request:
            go_on.wait(10)
            context.abort(grpc.StatusCode.NOT_FOUND, "no such task")
        return b""

    told: list[tuple[str, float, str]] = []
    methods = {rpc: grpc.unary_unary_rpc_method_handler(answer) for rpc in (rpcs.VERSION, rpcs.TASKS_GET)}
    with (
        grpc_server(data_dir / "s", methods),
        opened(str(data_dir / "s"), "mill", lambda *call: told.append(call)) as session,
    ):
        await session.call(rpcs.VERSION, Empty())
        request = tasks_pb2.GetRequest(container_id="none")
        with trio.move_on_after(0.1) as given_up:
            await session.call(rpcs.TASKS_GET, request)
        assert given_up.cancelled_caught
        with pytest.raises(RpcTimeout):
            await session.call(rpcs.TASKS_GET, request, timeout_s=0.3)
        go_on.set()
        with pytest.raises(RpcNotFound):
            await session.call(rpcs.TASKS_GET, request)
    assert [(path, code) for path, _, code in told] == [
        (rpcs.VERSION.path, "OK"),
        (rpcs.TASKS_GET.path, "DEADLINE_EXCEEDED"),
        (rpcs.TASKS_GET.path, "NOT_FOUND"),
    ]
    assert 0.3 <= told[1][1] < 5
    assert 0.0 < told[0][1] < 5


async def test_a_call_in_a_cancelled_scope_is_not_made(data_dir: Path) -> None:
    arrived = []

    def record(request: bytes, _context: grpc.ServicerContext) -> bytes:
        arrived.append(request)
        return b""

    with (
        grpc_server(data_dir / "s", {rpcs.VERSION: grpc.unary_unary_rpc_method_handler(record)}),
        opened(str(data_dir / "s"), "mill") as session,
    ):
        with trio.CancelScope() as scope:
            scope.cancel()
            await session.call(rpcs.VERSION, Empty())
        assert scope.cancelled_caught
        await session.call(rpcs.VERSION, Empty())
    assert len(arrived) == 1


async def test_namespace_and_lease_travel_as_headers(data_dir: Path) -> None:
    seen = []

    def record(_request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append(
            {key: value for key, value in context.invocation_metadata() if key.startswith("containerd-")}
        )
        return b""

    with (
        grpc_server(data_dir / "s", {rpcs.VERSION: grpc.unary_unary_rpc_method_handler(record)}),
        opened(str(data_dir / "s"), "other") as session,
    ):
        await session.call(rpcs.VERSION, Empty(), lease="keep")
        await session.call(rpcs.VERSION, Empty())
    assert seen == [
        {"containerd-namespace": "other", "containerd-lease": "keep"},
        {"containerd-namespace": "other"},
    ]


async def test_a_call_to_a_hung_server_times_out_and_its_connection_ends_with_the_session(
    data_dir: Path,
) -> None:
    async with hung_server(data_dir / "s") as ended:
        with opened(str(data_dir / "s"), "mill") as session, pytest.raises(RpcTimeout):
            await session.call(rpcs.VERSION, Empty(), timeout_s=0.2)
        await until(lambda: len(ended) == 1)
        assert ended[0].startswith(b"PRI * HTTP/2.0")


async def test_the_end_of_the_loop_under_a_call_is_no_error(
    data_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = """
import sys, trio
from google.protobuf.empty_pb2 import Empty
from mill.containerd import rpcs, session

async def main():
    with session.opened(sys.argv[1], "mill") as s:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(s.call, rpcs.VERSION, Empty())
            await trio.sleep(0.05)
            nursery.cancel_scope.cancel()

trio.run(main)
"""
    async with hung_server(data_dir / "s"):
        ended = await trio.run_process([sys.executable, "-c", program, str(data_dir / "s")])
    assert ended.returncode == 0
    assert capfd.readouterr().err == ""


class LateCall:
    """A call that reports its end when the test says so, and that cannot be cancelled."""

    def __init__(self) -> None:
        self.report: Callable[[object], None] = lambda _: None

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        self.report = callback

    def cancel(self) -> None:
        pass


def test_a_call_that_ends_after_the_loop_is_no_error() -> None:
    call = LateCall()

    async def give_up() -> ServerStream[Empty, Empty]:
        with trio.move_on_after(0.01):
            await completed(call)
        return ServerStream(lambda _: None)

    stream = trio.run(give_up)
    call.report(call)
    stream._soon(stream._deliver, Empty())


def bind_only(path: Path) -> None:
    with sockets.socket(sockets.AF_UNIX) as left:
        left.bind(str(path))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda _path: None, "does not exist"),
        (lambda path: path.write_text(""), "is not a socket"),
        (bind_only, "nobody listens there"),
    ],
)
async def test_a_socket_that_cannot_be_containerds_is_one_clear_line(
    data_dir: Path, make: Callable[[Path], object], line: str
) -> None:
    path = data_dir / "s"
    make(path)
    for attempt in (probe, session_service.serve):
        with pytest.raises(SetupError, match=line) as refused:
            await attempt(str(path))
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("greet", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n"])
async def test_a_server_that_is_not_containerd_is_one_clear_line(data_dir: Path, greet: bytes) -> None:
    async with hung_server(data_dir / "s", greet=greet):
        with pytest.raises(SetupError, match="not containerd") as refused:
            await probe(str(data_dir / "s"), timeout_s=0.5)
        assert "\n" not in str(refused.value)


async def test_another_grpc_server_is_one_clear_line(data_dir: Path) -> None:
    with grpc_server(data_dir / "s", {}), pytest.raises(SetupError, match="not containerd"):
        await session_service.serve(str(data_dir / "s"))


def test_a_socket_without_permission_is_one_clear_line(containerd_socket: str) -> None:
    program = """
import os, sys, trio
from mill.containerd import session
from mill.errors import SetupError
os.setuid(65534)
try:
    trio.run(session.probe, sys.argv[1])
except SetupError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", program, containerd_socket], check=True, capture_output=True, text=True
    )
    assert said.stdout.strip() == f"{containerd_socket}: no permission to connect; run milld as root"


async def test_a_path_with_odd_characters_is_reached(data_dir: Path) -> None:
    path = data_dir / "a b%41#?é"
    path.symlink_to(data_dir / "s")
    answer = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")
    with grpc_server(data_dir / "s", {rpcs.VERSION: answer}), opened(str(path), "mill") as session:
        await session.call(rpcs.VERSION, Empty(), timeout_s=5)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_no_thread_and_no_descriptor_is_left_behind(containerd_socket: str) -> None:
    before = set(bridge_threads())
    most = 0
    for _ in range(6):
        async with trio.open_nursery() as nursery:
            session: Session = await nursery.start(session_service.serve, containerd_socket)
            async with (
                session.stream(rpcs.EVENTS_SUBSCRIBE) as events,
                session.stream(rpcs.CONTENT_WRITE) as blob,
            ):
                await events.send(events_pb2.SubscribeRequest())
                await blob.send(content_pb2.WriteContentRequest(action=content_pb2.STAT, ref="threads"))
                await blob.receive()
                with trio.move_on_after(0.01):
                    await events.receive()
                assert len(set(bridge_threads()) - before) >= 4
            await forget_ingest(session, "threads")
            nursery.cancel_scope.cancel()
        await until(lambda: set(bridge_threads()) <= before)
        most = most or descriptors()  # grpc keeps a few, once
        await until(lambda bound=most: descriptors() <= bound)  # type: ignore[misc]


async def test_a_session_that_has_ended_says_so(containerd_socket: str) -> None:
    async with trio.open_nursery() as nursery:
        session: Session = await nursery.start(session_service.serve, containerd_socket)
        nursery.cancel_scope.cancel()
    assert not session.connected
    with pytest.raises(RpcUnavailable, match="session has ended"):
        await session.call(rpcs.VERSION, Empty())
    with pytest.raises(RpcUnavailable, match="session has ended"):
        async with session.stream(rpcs.CONTENT_WRITE):
            pass


async def test_a_call_costs_little_more_than_grpcs_own(session: Session) -> None:
    method = session._callable(rpcs.VERSION)
    ours, raw = [], []
    for _ in range(300):
        start = time.perf_counter()
        await session.call(rpcs.VERSION, Empty())
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        method(Empty())
        raw.append(time.perf_counter() - start)
    ratio = statistics.median(ours) / statistics.median(raw)
    print(
        f"Version: {statistics.median(ours) * 1e3:.3f} ms, blocking {statistics.median(raw) * 1e3:.3f} ms, x {ratio:.2f}"
    )
    assert ratio < 4
