"""DNS over TCP (RFC 7766): pipelined queries, answers as they get ready, an end for who is idle. Used by `service`."""

import attrs
import trio

from mill.dns.answer import Miss
from mill.dns.limits import IDLE_S, PIPELINE
from mill.dns.message import Frames, Question, frame
from mill.dns.responder import Responder

_READ_BYTES = 4096
BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What a connection raises that somebody, the client or we, has ended."""


async def serve_stream(stream: trio.SocketStream, responder: Responder) -> None:
    """One connection, until the client has left or is idle and its last answer is out. Closes *stream*."""
    async with stream, trio.open_nursery() as later:
        await _Connection(stream, responder, later).read()


@attrs.define(eq=False)
class _Connection:
    _stream: trio.SocketStream
    _responder: Responder
    _later: trio.Nursery
    _one_write: trio.Lock = attrs.field(factory=trio.Lock)
    _room: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(PIPELINE))

    async def read(self) -> None:
        """A client earns time by whole queries only, not by bytes."""
        frames, until = Frames(), trio.current_time() + IDLE_S
        while data := await self._receive(until):
            for wire in frames.feed(data):
                made = self._responder.answer_now(wire, udp=False)
                if made is None:  # who sends what is no query has lost its place in the stream
                    return
                if isinstance(made, Question | Miss):
                    await self._room.acquire()
                    self._later.start_soon(self._write_later, made)
                else:
                    await self._write(made)
                until = trio.current_time() + IDLE_S

    async def _receive(self, until: float) -> bytes:
        """What comes next; nothing at the end, or at *until*."""
        with trio.move_on_at(until):
            try:
                return bytes(await self._stream.receive_some(_READ_BYTES))
            except BROKEN:
                pass
        return b""

    async def _write_later(self, asked: Question | Miss) -> None:
        try:
            await self._write(await self._responder.answer_later(asked, udp=False))
        finally:
            self._room.release()

    async def _write(self, made: bytes) -> None:
        """Who takes no answers is cut off."""
        try:
            async with self._one_write:
                with trio.fail_after(IDLE_S):
                    await self._stream.send_all(frame(made))
        except (*BROKEN, trio.TooSlowError):
            self._later.cancel_scope.cancel()
