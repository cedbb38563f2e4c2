"""One query and its answer: from the zone or the cache at once, from upstream or other nodes later. Counts all. For `service` and `stream`."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import attrs
import structlog

from mill.dns import message
from mill.dns.answer import Forward, Miss, answer
from mill.dns.forward import BUSY, Forwarder
from mill.dns.limits import WAITING
from mill.dns.message import RCODES, Question
from mill.dns.names import Known, Learnt, Name, Unsure, Zone

SOURCES: Sequence[tuple[str, Sequence[str]]] = (
    ("mill", ("noerror", "nxdomain", "servfail", "formerr", "notimp", "refused", "badvers", "dropped")),
    ("cache", ("noerror", "nxdomain")),
    ("upstream", ("noerror", "nxdomain", "servfail", "refused")),
)
"""Where answers come from, and which they usually are. No others than those of `RCODES` can be."""

Ask = Callable[[str], Awaitable[Name | Unsure | None]]
"""What others know of a task that this node does not, within a time that no client minds; it raises nothing."""

log = structlog.get_logger()


async def ask_nobody(task_id: str) -> Unsure:  # noqa: ARG001 -- as `Ask`
    """For a node that has no others."""
    return Known.UNSURE


@attrs.define(eq=False)
class Responder:
    """`counts` are queries by where their answer came from (``mill``, ``cache``, ``upstream``) and its rcode, or ``dropped``."""

    _zone: Zone
    _forwarder: Forwarder
    _ask: Ask = ask_nobody
    counts: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    _waiting: int = 0

    def answer_now(self, wire: bytes, *, udp: bool) -> bytes | Question | Miss | None:
        """The answer if it needs no waiting; what `answer_later` is to be given; None: no answer at all."""
        try:
            made = answer(wire, self._zone, udp=udp)
        except Exception:  # the top of one query
            log.exception("internal error over a DNS query; it got no answer", query=wire.hex())
            made = None
        if isinstance(made, Forward):
            return self._from_cache(made.question, udp=udp)
        if isinstance(made, Miss):
            return made if self._waiting < WAITING else self._counted("mill", made.wire)
        return self._counted("mill", made)

    def _from_cache(self, question: Question, *, udp: bool) -> bytes | Question | None:
        made = self._forwarder.cached(question, udp=udp)
        if made is not None:
            return self._counted("cache", made)
        if self._waiting < WAITING:
            return question
        self._forwarder.failures[BUSY] += 1
        return self._failed(question, udp=udp)

    async def answer_later(self, asked: Question | Miss, *, udp: bool) -> bytes:
        """What upstream says, or the other nodes; or SERVFAIL, before the client loses its patience."""
        self._waiting += 1
        try:
            if isinstance(asked, Miss):
                return self._learnt(asked, await self._ask(asked.task_id), udp=udp)
            reply = await self._forwarder.resolve(asked)
        finally:
            self._waiting -= 1
        if reply is None:
            return self._failed(asked, udp=udp)
        made = reply.to(asked, udp=udp)
        self._counted("upstream", made)
        return made

    def _learnt(self, miss: Miss, found: Name | Unsure | None, *, udp: bool) -> bytes:
        made = answer(miss.question.wire, attrs.evolve(self._zone, names=Learnt(found)), udp=udp)
        said = made if isinstance(made, bytes) else miss.wire
        self._counted("mill", said)
        return said

    def _failed(self, question: Question, *, udp: bool) -> bytes:
        made = message.reply(question, message.RA, message.SERVFAIL, udp=udp)
        self._counted("upstream", made)
        return made

    def _counted(self, source: str, made: bytes | None) -> bytes | None:
        self.counts[source, "dropped" if made is None else RCODES[message.rcode_of(made)]] += 1
        return made
