"""The HTTP server: hypercorn's protocol on our own thin shell of its TCP server.

Hypercorn's own shields its sends, so that a client which stops reading holds up a shutdown for ever, takes any number of
connections, switches to HTTP/2 and WebSocket when asked, and lets what goes wrong with one connection end the process.
Here a write has a deadline and can be cancelled, connections are capped and speak HTTP/1.1, one that fails ends alone, and
dead peers are found by TCP keepalive. The daemon serves it; it knows an ASGI application and nothing of tasks.
"""

import errno
import json
import math
import socket as stdlib_socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import h11
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.logging import Logger
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ConnectionState, Scope
from hypercorn.utils import parse_socket_addr

from mill.api.problems import PROBLEM_TYPE, no_http
from mill.api.tls import Tls, linger, secure
from mill.config import API_CONNECTIONS, API_KEEP_ALIVE_S, API_WRITE_DEADLINE_S
from mill.errors import MillError, SetupError
from mill.units import parse_address

DRAIN_S = 1.0
"""What requests under way may still take once milld leaves; followers are cut then and resume by their cursor."""
BACKLOG = 512
KEEPALIVE = (
    (stdlib_socket.TCP_KEEPIDLE, 60),
    (stdlib_socket.TCP_KEEPINTVL, 20),
    (stdlib_socket.TCP_KEEPCNT, 3),
)
"""A peer that vanished without a word is noticed after two minutes."""
ACCEPT_RETRY_S = 0.1
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)
"""What a connection raises that somebody, the client or we, has ended."""

EndThose = Callable[[float], None]
"""Has the connections that are there now end within so many seconds; others come as before."""

log = structlog.get_logger()


@attrs.define(eq=False)
class Load:
    """What the server is busy with now. A request counts until its answer is out: a follow, as long as it follows."""

    connections: int = 0
    requests: int = 0

    def counted(self, app: Any) -> ASGIWrapper:
        """*app*, its requests counted."""

        async def counting(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            self.requests += 1
            try:
                await app(scope, receive, send)
            finally:
                self.requests -= 1

        return ASGIWrapper(counting)


def _leaf_of(error: BaseException | None) -> BaseException | None:
    """The one error inside of groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class _Log(Logger):
    """Hypercorn's only word that is passed on: the application failed when its answer had begun."""

    async def exception(self, message: str, *_: Any, **__: Any) -> None:  # noqa: ARG002 -- says no more than ours
        error = _leaf_of(sys.exception())
        if isinstance(error, MillError):
            log.warning("an answer was cut off in the middle", why=str(error))
        else:
            log.error("internal error in the middle of an answer; it was cut off", exc_info=sys.exception())


class _Http11(H11Protocol):
    """HTTP/1.1 and nothing else: a wish to switch is passed over, as RFC 9110 (section 7.8) allows."""

    _cut_off = False

    async def stream_send(self, event: StreamEvent) -> None:
        """Whose answer was cut off while its head was written gets no other: hypercorn would begin one, and h11 refuse it."""
        if isinstance(event, Response) and self.connection.our_state is h11.SEND_BODY:
            self._cut_off = True
            await self.send(Closed())
        elif not self._cut_off:
            await super().stream_send(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Hypercorn's would switch to HTTP/2 here."""

    async def _create_stream(self, request: h11.Request) -> None:
        if any(name == b"upgrade" for name, _ in request.headers):
            headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
            request = h11.Request(
                method=request.method,
                headers=headers,
                target=request.target,
                http_version=request.http_version,
            )
        await super()._create_stream(request)

    async def _send_error_response(self, status_code: int) -> None:
        """Hypercorn's has no body."""
        said = json.dumps(no_http(status_code)).encode()
        headers = [
            (b"content-type", PROBLEM_TYPE.encode()),
            (b"content-length", b"%d" % len(said)),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=said))
        await self._send_h11_event(h11.EndOfMessage())


class Connection(TCPServer):
    """One connection. Writes end at their deadline, or when milld leaves; then so does everything of it."""

    async def run(self) -> None:
        secured = self.stream if isinstance(self.stream, trio.SSLStream) else None
        plain = secured.transport_stream if secured is not None else self.stream
        socket = plain.socket
        client = parse_socket_addr(socket.family, socket.getpeername())
        server = parse_socket_addr(socket.family, socket.getsockname())
        self._over = False
        with trio.CancelScope() as self._scope:
            async with TaskGroup() as group:
                self._task_group = group
                self.protocol = _Http11(  # type: ignore[assignment]  # as hypercorn's wrapper of it
                    self.app,
                    self.config,
                    self.context,
                    group,
                    ConnectionState(self.state),
                    secured is not None,
                    client,
                    server,
                    self.protocol_send,
                )
                await self.idle_task.restart(group, self._idle_timeout)
                await self._read_data()
                self._scope.cancel()  # the client is gone; hypercorn would keep its place until it counts as idle
        if self._over:
            await linger(plain, secured)

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Updated):
            with trio.CancelScope(
                shield=True
            ):  # the answer's own scope is cancelled at its end, which is now
                await super().protocol_send(event)
        else:  # the last answer is out
            self._over = True
            self._scope.cancel()

    async def _write(self, data: bytes) -> None:
        try:
            async with self.send_lock:
                with trio.fail_after(API_WRITE_DEADLINE_S):
                    await self.stream.send_all(data)
        except (*_BROKEN, trio.TooSlowError):
            self._scope.cancel()
            await trio.aclose_forcefully(self.stream)


def bind(listen: str, option: str = "--listen") -> stdlib_socket.socket:
    """The listening socket, or `SetupError` that says why not and names the *option* that chooses another."""
    host, port = parse_address(listen)
    family = stdlib_socket.AF_INET6 if ":" in host else stdlib_socket.AF_INET
    sock = stdlib_socket.socket(family, stdlib_socket.SOCK_STREAM)
    try:
        sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise SetupError(
                f"{listen} is in use: stop what listens there, or choose another with {option}"
            ) from None
        raise SetupError(f"cannot listen on {listen}: {error.strerror}") from None
    sock.setblocking(False)
    return sock


async def serve(
    app: Any,
    sock: stdlib_socket.socket,
    load: Load,
    tls: Tls | None = None,
    *,
    task_status: trio.TaskStatus[EndThose],
) -> None:
    """Answer on *sock*, by *tls* alone where there is one, until cancelled; then let requests under way finish within
    `DRAIN_S`. Closes *sock*; keeps *load*.
    """
    context = WorkerContext(None)
    config, counted = _config(), load.counted(app)
    room = trio.Semaphore(API_CONNECTIONS)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    open_scopes: set[trio.CancelScope] = set()
    leave_at = math.inf

    async def answer(stream: trio.SocketStream) -> None:
        # Milld's leaving reaches it as a deadline.
        with trio.CancelScope(shield=True, deadline=leave_at) as scope:
            open_scopes.add(scope)
            load.connections = len(open_scopes)
            try:
                secured = (stream, {}) if tls is None else await secure(stream, tls)
                if secured is not None:
                    await Connection(counted, config, context, secured[1], secured[0])  # type: ignore[arg-type]
            except* _BROKEN:
                pass
            except* Exception as errors:  # the top of one connection
                log.exception("internal error on a connection; it was closed", exc_info=errors)
            finally:
                open_scopes.discard(scope)
                load.connections = len(open_scopes)
                room.release()
                await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as connections:
        try:
            task_status.started(partial(_end, open_scopes))
            while True:
                await room.acquire()
                connections.start_soon(answer, await _accept(listener))
        finally:
            listener.socket.close()
            await context.terminated.set()
            leave_at = trio.current_time() + DRAIN_S
            _end(open_scopes, DRAIN_S)


def _end(scopes: set[trio.CancelScope], within_s: float) -> None:
    for scope in scopes:
        scope.deadline = min(scope.deadline, trio.current_time() + within_s)


def _config() -> HypercornConfig:
    config = HypercornConfig()
    config.keep_alive_timeout = API_KEEP_ALIVE_S
    config.accesslog = config.errorlog = None
    config.logger_class = _Log
    config.include_server_header = False
    return config


async def _accept(listener: trio.SocketListener) -> trio.SocketStream:
    """The next connection; out of descriptors or memory, wait until there are some again."""
    while True:
        try:
            stream = await listener.accept()
        except OSError as error:
            if error.errno not in _OUT_OF_RESOURCES:
                raise
            await trio.sleep(ACCEPT_RETRY_S)
        else:
            stream.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE:
                stream.setsockopt(stdlib_socket.IPPROTO_TCP, option, value)
            return stream
