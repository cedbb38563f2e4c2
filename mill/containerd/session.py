"""The connection to one containerd: unary calls and streams for trio, and a service that keeps it.

`serve` is run by the node; everybody else in this package gets the `Session`. It speaks messages of
`mill.containerd.proto` through the methods that `rpcs` names, raises `faults` only, and knows nothing of tasks or
images. Cancelling a coroutine that waits in `call`, or leaving a `stream` block, cancels the call on the wire.

A connection is watched by an event stream that no event reaches: it ends when the connection does. It also keeps grpc's
event thread alive, which would otherwise be started anew for every call.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import attrs
import structlog
import trio
from google.protobuf.empty_pb2 import Empty

from mill.containerd import rpcs
from mill.containerd.channel import completed, open_channel, outcome_of
from mill.containerd.endpoint import check_listens
from mill.containerd.faults import RpcAlreadyExists, RpcError, RpcTimeout, RpcUnavailable, fault_of
from mill.containerd.proto import events_pb2, introspection_pb2, namespaces_pb2
from mill.containerd.rpcs import Kind, Req, Res, Rpc
from mill.containerd.stream import BidiStream, ServerStream, Stream
from mill.errors import SetupError

NAMESPACE = "mill"

DEFAULT_CALL_TIMEOUT_S = 60.0
"""How long a unary call may take unless its caller knows better. Making a task on a loaded machine takes seconds."""

FIRST_ANSWER_TIMEOUT_S = 5.0
"""How long a socket may take to prove that it is containerd."""

PING_S, PING_TIMEOUT_S = 2.0, 4.0
"""Between two looks whether containerd answers, and for one; so long a hang goes unnoticed. A Version takes it 0.2 ms."""

_MATCHES_NO_EVENT = 'topic=="/mill/none"'
_TASK_SERVICE = "io.containerd.grpc.v1.tasks"
_SNAPSHOTTER_TYPE = "io.containerd.snapshotter.v1."
_CONTENT = "io.containerd.content.v1.content"

OnCall = Callable[[str, float, str], None]
"""Told of every unary call that has ended: its path, the seconds it took, and the name of its status code."""

log = structlog.get_logger()


def tell_nobody(path: str, seconds: float, code: str) -> None:
    """For a session whose calls nobody counts."""


@attrs.frozen
class Features:
    """What the containerd at the other end can do. `plugins` holds ``<type>.<id>`` of those that work."""

    version: str
    plugins: frozenset[str]
    roots: Mapping[str, str] = attrs.field(factory=dict)
    """The directory of each store that tells: ``<type>.<id>`` of the plugin to its path on containerd's side."""

    @property
    def stores(self) -> frozenset[str]:
        """The directories that a task and its image need room in."""
        names = (_CONTENT, _SNAPSHOTTER_TYPE + self.snapshotter)
        return frozenset(self.roots[name] for name in names if name in self.roots)

    @property
    def snapshots_root(self) -> str | None:
        return self.roots.get(_SNAPSHOTTER_TYPE + self.snapshotter)

    @property
    def overlayfs(self) -> bool:
        return _SNAPSHOTTER_TYPE + "overlayfs" in self.plugins

    @property
    def runs_tasks(self) -> bool:
        """Whether its task service is on and has not failed."""
        return _TASK_SERVICE in self.plugins

    @property
    def snapshotter(self) -> str:
        """The snapshotter to use: ``native`` copies, but works on any filesystem."""
        return "overlayfs" if self.overlayfs else "native"


@attrs.define(eq=False)
class Session:
    """Calls to one containerd in one namespace. `connected` tells what was last seen; no call waits for it."""

    socket: str
    namespace: str
    _channel: Any
    _on_call: OnCall = tell_nobody
    features: Features = Features(version="", plugins=frozenset())
    _up: trio.Event = attrs.field(factory=trio.Event)
    _callables: dict[str, Any] = attrs.field(factory=dict)
    _closed: bool = False

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    @property
    def connection(self) -> object:
        """The same object as long as the connection has not been lost."""
        return self._up

    async def wait_connected(self) -> None:
        await self._up.wait()

    async def call(
        self,
        rpc: Rpc[Req, Res],
        request: Req,
        *,
        timeout_s: float | None = DEFAULT_CALL_TIMEOUT_S,
        lease: str | None = None,
    ) -> Res:
        """One unary call. Fails at once with RpcUnavailable when not connected; None waits as long as it takes."""
        return await self._call(rpc, request, timeout_s=timeout_s, lease=lease)

    async def _call(
        self,
        rpc: Rpc[Req, Res],
        request: Req,
        *,
        timeout_s: float | None,
        lease: str | None = None,
        wait_for_ready: bool = False,
    ) -> Res:
        await trio.lowlevel.checkpoint_if_cancelled()
        began = trio.current_time()
        future = self._callable(rpc).future(
            request, timeout=timeout_s, metadata=self._metadata(lease), wait_for_ready=wait_for_ready
        )
        await completed(future)
        code, text = outcome_of(future)
        self._on_call(rpc.path, trio.current_time() - began, code)
        if code == "OK":
            response: Res = future.result()
            return response
        raise RpcUnavailable("UNAVAILABLE", "the session has ended") if self._closed else fault_of(code, text)

    @asynccontextmanager
    async def stream(
        self, rpc: Rpc[Req, Res], *, lease: str | None = None
    ) -> AsyncGenerator[Stream[Req, Res]]:
        """A streaming call for the length of the block; leaving it cancels the call and ends its threads."""
        method, metadata = self._callable(rpc), self._metadata(lease)
        stream: Stream[Req, Res]
        if rpc.kind is Kind.BIDI:
            bidi = BidiStream[Req, Res](lambda requests: method(requests, metadata=metadata))
            bidi.begin()
            stream = bidi
        else:
            stream = ServerStream(lambda request: method(request, metadata=metadata))
        try:
            yield stream
        finally:
            await stream.aclose()

    async def collect(self, rpc: Rpc[Req, Res], request: Req, *, lease: str | None = None) -> list[Res]:
        """All answers of a server stream that ends by itself, such as a listing."""
        answers = []
        async with self.stream(rpc, lease=lease) as stream:
            await stream.send(request)
            with suppress(trio.EndOfChannel):
                while True:
                    answers.append(await stream.receive())
        return answers

    def _metadata(self, lease: str | None) -> tuple[tuple[str, str], ...]:
        namespace = ("containerd-namespace", self.namespace)
        return (namespace,) if lease is None else (namespace, ("containerd-lease", lease))

    def _callable(self, rpc: Rpc[Req, Res]) -> Any:
        if self._closed:
            raise RpcUnavailable("UNAVAILABLE", "the session has ended")
        made = self._callables.get(rpc.path)
        if made is None:
            make = {
                Kind.UNARY: self._channel.unary_unary,
                Kind.SERVER_STREAM: self._channel.unary_stream,
                Kind.BIDI: self._channel.stream_stream,
            }[rpc.kind]
            made = make(
                rpc.path,
                request_serializer=rpc.request.SerializeToString,
                response_deserializer=rpc.response.FromString,
            )
            self._callables[rpc.path] = made
        return made

    async def greet(self, *, timeout_s: float) -> None:
        """Learn who answers and have the namespace; from then on the session counts as connected."""
        features = await self.learn(timeout_s=timeout_s)
        request = namespaces_pb2.CreateNamespaceRequest(
            namespace=namespaces_pb2.Namespace(name=self.namespace)
        )
        with suppress(RpcAlreadyExists):
            await self._call(rpcs.NAMESPACES_CREATE, request, timeout_s=timeout_s)
        self.features = features
        self._up.set()

    async def learn(self, *, timeout_s: float) -> Features:
        """Who answers, and what works there. Changes nothing at either end."""
        version = await self._call(rpcs.VERSION, Empty(), timeout_s=timeout_s, wait_for_ready=True)
        listed = await self._call(
            rpcs.INTROSPECTION_PLUGINS, introspection_pb2.PluginsRequest(), timeout_s=timeout_s
        )
        working = frozenset(f"{p.type}.{p.id}" for p in listed.plugins if not p.HasField("init_err"))
        roots = {f"{p.type}.{p.id}": p.exports["root"] for p in listed.plugins if "root" in p.exports}
        return Features(version=version.version, plugins=working, roots=roots)

    def close(self) -> None:
        """End every call and refuse further ones."""
        self._closed = True
        self._up = trio.Event()
        self._channel.close()

    async def _wait_lost(self) -> str:
        """Until the connection ends; why it did."""
        try:
            async with self.stream(rpcs.EVENTS_SUBSCRIBE) as watch:
                await watch.send(events_pb2.SubscribeRequest(filters=[_MATCHES_NO_EVENT]))
                while True:
                    await watch.receive()
        except RpcError as fault:
            return fault.message
        except trio.EndOfChannel:
            return "containerd ended the event stream"

    async def _wait_mute(self) -> str:
        """Until it does not answer: one that hangs, or was stopped, keeps its connections."""
        while True:
            await trio.sleep(PING_S)
            try:
                await self._call(rpcs.VERSION, Empty(), timeout_s=PING_TIMEOUT_S)
            except RpcTimeout:
                return f"it has not answered for {PING_TIMEOUT_S:g} s"
            except RpcError as fault:
                return fault.message

    async def _wait_away(self) -> str:
        reasons: list[str] = []

        async def wait(until: Callable[[], Awaitable[str]]) -> None:
            reasons.append(await until())
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, self._wait_lost)
            nursery.start_soon(wait, self._wait_mute)
        return reasons[0]

    async def keep(self) -> None:
        """Notice each loss of the connection, each hang, and each return, for ever."""
        while True:
            reason = await self._wait_away()
            self._up = trio.Event()
            log.warning("containerd is gone", socket=self.socket, reason=reason)
            while not self.connected:
                with suppress(RpcError):
                    await self.greet(timeout_s=FIRST_ANSWER_TIMEOUT_S)
            log.info("containerd is back", socket=self.socket, version=self.features.version)


@contextmanager
def opened(socket: str, namespace: str, on_call: OnCall = tell_nobody) -> Iterator[Session]:
    """A session that nobody keeps and that has greeted nobody: good for calls, never `connected`."""
    session = Session(socket=socket, namespace=namespace, channel=open_channel(socket), on_call=on_call)
    try:
        yield session
    finally:
        session.close()


async def probe(socket: str, *, timeout_s: float = FIRST_ANSWER_TIMEOUT_S) -> str:
    """The version of the containerd that listens on *socket*. SetupError when there is none."""
    check_listens(socket)
    with opened(socket, NAMESPACE) as session:
        try:
            answer = await session.call(rpcs.VERSION, Empty(), timeout_s=timeout_s)
        except RpcError as fault:
            raise SetupError(
                f"{socket}: what listens there is not containerd, or hangs ({fault.message})"
            ) from fault
    return answer.version


async def serve(
    socket: str,
    *,
    namespace: str = NAMESPACE,
    on_call: OnCall = tell_nobody,
    task_status: trio.TaskStatus[Session] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep a session with the containerd at *socket*. SetupError when there is none at the start; afterwards it waits."""
    check_listens(socket)
    with opened(socket, namespace, on_call) as session:
        try:
            await session.greet(timeout_s=FIRST_ANSWER_TIMEOUT_S)
        except RpcError as fault:
            raise SetupError(
                f"{socket}: what listens there is not containerd, or hangs ({fault.message})"
            ) from fault
        if not session.features.runs_tasks:
            raise SetupError(
                f"{socket}: this containerd runs no tasks: its plugin {_TASK_SERVICE} is off or has failed"
            )
        task_status.started(session)
        await session.keep()
