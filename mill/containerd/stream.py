"""One streaming call, bridged from grpc's threads to trio. Knows nothing of containerd; `session` opens it.

grpc's streams block, so each has a thread that reads (and a bidirectional one a second, which grpc starts to take
requests from an iterator). Neither runs ahead: the reader fetches a message when one is asked for, and a request is
taken when the transport has taken the one before; that is all the back-pressure there is, and all there needs to be.
Threads speak to trio through `TrioToken.run_sync_soon`; trio speaks to threads through queues.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any, Generic

import attrs
import grpc
import trio

from mill.containerd.channel import outcome_of
from mill.containerd.faults import RpcError, fault_of
from mill.containerd.rpcs import Req, Res

_OK = ("OK", "")


@attrs.define(eq=False)
class Stream(Generic[Req, Res]):
    """What both kinds of stream share: receiving. One task may receive while another sends; not two of a kind."""

    _open: Callable[[Any], Any]
    _token: trio.lowlevel.TrioToken = attrs.field(factory=trio.lowlevel.current_trio_token)
    _demand: SimpleQueue[bool] = attrs.field(factory=SimpleQueue)
    _call: Any = None
    _reader: Thread | None = None
    _asked: bool = False
    _message: Res | None = None
    _outcome: tuple[str, str] | None = None
    _ready: trio.Event = attrs.field(factory=trio.Event)
    _read_all: trio.Event = attrs.field(factory=trio.Event)

    async def send(self, request: Req) -> None:
        """Hand over *request*. Raises RpcError when the call has ended."""
        raise NotImplementedError

    async def done_sending(self) -> None:
        """Say that no request follows."""
        raise NotImplementedError

    async def receive(self) -> Res:
        """The next answer. A cancelled receive loses none. Raises trio.EndOfChannel at the end, RpcError on failure."""
        if not self._asked:
            self._asked = True
            self._demand.put(True)
        await self._ready.wait()
        if self._message is None:
            code, text = self._outcome or _OK
            raise trio.EndOfChannel if code == "OK" else fault_of(code, text)
        message, self._message = self._message, None
        self._asked, self._ready = False, trio.Event()
        return message

    async def aclose(self) -> None:
        """Cancel the call unless it has ended, and wait for its threads. Not to be interrupted: it takes no time."""
        if self._call is None or self._reader is None:
            return
        self._call.cancel()
        self._demand.put(False)
        with trio.CancelScope(shield=True):
            await self._read_all.wait()
        self._reader.join()

    def _begin(self, requests: Any) -> None:
        self._call = self._open(requests)
        self._reader = Thread(target=self._read, args=(self._call,), name="mill-rpc-reader", daemon=True)
        self._reader.start()

    def _read(self, call: Any) -> None:
        """The reader thread."""
        try:
            while self._demand.get():
                self._soon(self._deliver, next(call))
        except StopIteration:
            self._soon(self._end, _OK)
        except grpc.RpcError as error:
            self._soon(self._end, outcome_of(error))
        self._soon(self._read_all.set)

    def _deliver(self, message: Res) -> None:
        self._message = message
        self._ready.set()

    def _end(self, outcome: tuple[str, str]) -> None:
        self._outcome = outcome
        self._ready.set()

    def _soon(self, act: Callable[..., object], *args: object) -> None:
        """From any thread: have trio call *act*. A loop that has ended needs to know nothing more."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(act, *args)


class ServerStream(Stream[Req, Res]):
    """One request, many answers: the call begins with the request."""

    async def send(self, request: Req) -> None:
        await trio.lowlevel.checkpoint()
        if self._call is not None:
            raise RuntimeError("this method takes one request")
        self._begin(request)

    async def done_sending(self) -> None:
        await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class BidiStream(Stream[Req, Res]):
    """Requests and answers as both sides please. `begin` before anything else."""

    _requests: SimpleQueue[Req | None] = attrs.field(factory=SimpleQueue)
    _sender: Thread | None = None
    _started: trio.Event = attrs.field(factory=trio.Event)
    _writable: trio.Event = attrs.field(factory=trio.Event)
    _broken: tuple[str, str] | None = None

    def begin(self) -> None:
        self._begin(self._outgoing())
        call = self._call
        if not call.add_callback(lambda: self._soon(self._break, call)):
            self._break(call)

    async def send(self, request: Req) -> None:
        """Waits until the transport has taken the request before this one."""
        await self._writable.wait()
        if self._broken is not None:
            code, text = self._broken
            raise RpcError("CANCELLED", "the call is over") if code == "OK" else fault_of(code, text)
        self._writable = trio.Event()
        self._requests.put(request)

    async def done_sending(self) -> None:
        await trio.lowlevel.checkpoint()
        self._requests.put(None)

    async def aclose(self) -> None:
        self._requests.put(None)
        await super().aclose()
        with trio.CancelScope(shield=True):
            await self._started.wait()
        if self._sender is not None:
            self._sender.join()

    def _outgoing(self) -> Iterator[Req]:
        """The iterator that grpc takes requests from, in a thread of its own, each when the one before is written."""
        self._sender = current_thread()
        self._soon(self._started.set)
        self._soon(self._let_write)
        while (request := self._requests.get()) is not None:
            yield request
            self._soon(self._let_write)

    def _let_write(self) -> None:
        self._writable.set()

    def _break(self, call: Any) -> None:
        self._broken = outcome_of(call)
        self._writable.set()
