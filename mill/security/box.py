"""Gossip's datagrams: sealed by their sender, opened by any node of the cluster, each once. Pure.

    version  key id  sender  boot id  counter | payload and tag
       1        4      16      16        8    | n + 16          ChaCha20-Poly1305 (RFC 8439), the header as associated data

Every start of every node seals with a key of its own, HKDF(gossip key, sender, boot id), so that a counter can be the nonce
and none is ever used twice: a boot id is random and belongs to one `Sealer`. Nothing is understood that is not sealed.

What was opened once is refused from then on by a window over the latest `WINDOW` counters of each (sender, boot id), as
IPsec has it (RFC 4303, 3.4.3). Only what is authentic makes or moves a window. Windows are bounded, and with a receiver's
restart they go; the protocol above must bear an old message (SWIM does: by epoch and incarnation). `cluster` uses it.
"""

import struct
from collections import OrderedDict
from enum import StrEnum
from typing import NamedTuple

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from mill.security.keys import KEY_ID_BYTES, Keyring, derive

VERSION = 1
ID_BYTES = 16
HEADER = struct.Struct(f"!B{KEY_ID_BYTES}s{ID_BYTES}s{ID_BYTES}sQ")
TAG_BYTES = 16
OVERHEAD_BYTES = HEADER.size + TAG_BYTES
MOST_BYTES = 65_507
"""A datagram's payload of UDP over IPv4, at most."""
WINDOW = 1024
"""So far a datagram may lag behind a later one of its sender and still be opened."""
MOST_SESSIONS = 4096
"""Starts of all senders whose windows are kept; 1.5 kB each. Those unheard of for longest go first."""
SESSIONS_EACH = 8
"""Of one sender: one that restarts for ever does not push others out, and replaying its past does not push out its present."""

_LAST_COUNTER = 2**64 - 1


class Refusal(StrEnum):
    """Why a datagram was not opened; a metric counts them."""

    SIZE = "size"
    VERSION = "version"
    KEY = "key"  # a secret that is not in the ring
    OWN = "own"  # ours, sent back to us
    FORGED = "forged"  # or damaged
    REPLAYED = "replayed"  # or older than the window


@attrs.frozen
class Opened:
    """An authentic datagram: `sender` is a node id, `boot_id` one of its starts."""

    sender: str
    boot_id: bytes
    payload: bytes


def _cipher(gossip_key: bytes, sender: bytes, boot_id: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(derive(gossip_key, b"gossip sender", sender, boot_id))


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")


class Sealer:
    """Seals what this start of this node sends; *boot_id* is 16 random bytes that no other Sealer was given."""

    def __init__(self, ring: Keyring, me: str, boot_id: bytes, counter: int = 0) -> None:
        if len(boot_id) != ID_BYTES:
            raise ValueError(f"a boot id has {ID_BYTES} bytes, not {len(boot_id)}")
        self._sender, self._boot_id, self._counter = _id_bytes(me), boot_id, counter
        self.use(ring)

    def use(self, ring: Keyring) -> None:
        """Seal by the secret that is in use in *ring*; the counter goes on."""
        self._key_id = ring.used.key_id
        self._cipher = _cipher(ring.used.gossip_key, self._sender, self._boot_id)

    def seal(self, payload: bytes) -> bytes:
        """A datagram, `OVERHEAD_BYTES` longer than *payload*."""
        if len(payload) + OVERHEAD_BYTES > MOST_BYTES:
            raise ValueError(f"{len(payload)} bytes are too many for a datagram")
        if self._counter > _LAST_COUNTER:
            raise OverflowError("this boot id is used up")  # a million a second for 585,000 years
        header = HEADER.pack(VERSION, self._key_id, self._sender, self._boot_id, self._counter)
        nonce = _nonce(self._counter)
        self._counter += 1
        return header + self._cipher.encrypt(nonce, payload, header)


class Opener:
    """Opens what others sealed. Work for a datagram that is not authentic: one derivation, one try; nothing is kept of it."""

    def __init__(
        self,
        ring: Keyring,
        me: str,
        *,
        most_sessions: int = MOST_SESSIONS,
        sessions_each: int = SESSIONS_EACH,
    ) -> None:
        self._me = _id_bytes(me)
        self._most_sessions, self._sessions_each = most_sessions, sessions_each
        self._sessions: OrderedDict[tuple[bytes, bytes], _Session] = OrderedDict()
        self._boots: dict[bytes, OrderedDict[bytes, None]] = {}
        self.use(ring)

    def use(self, ring: Keyring) -> None:
        """Understand the secrets of *ring* and no others; the windows stay, for a sender's counter goes on."""
        self._gossip_keys = {secret.key_id: secret.gossip_key for secret in ring}
        for session in self._sessions.values():
            session.ciphers.clear()

    def __len__(self) -> int:
        """Windows kept."""
        return len(self._sessions)

    def open(self, datagram: bytes) -> Opened | Refusal:
        if not OVERHEAD_BYTES <= len(datagram) <= MOST_BYTES:
            return Refusal.SIZE
        head = _Header(*HEADER.unpack_from(datagram))
        session = self._sessions.get((head.sender, head.boot_id))
        refusal = self._refusal(head, session)
        if refusal is not None:
            return refusal
        session = session or _Session(head.counter)
        cipher = session.ciphers.get(head.key_id) or _cipher(
            self._gossip_keys[head.key_id], head.sender, head.boot_id
        )
        try:
            sealed = memoryview(datagram)[HEADER.size :]
            payload = cipher.decrypt(_nonce(head.counter), sealed, datagram[: HEADER.size])
        except InvalidTag:
            return Refusal.FORGED
        session.ciphers[head.key_id] = cipher
        session.take(head.counter)
        self._keep(head.sender, head.boot_id, session)
        return Opened(head.sender.hex(), head.boot_id, payload)

    def _refusal(self, head: "_Header", session: "_Session | None") -> Refusal | None:
        """What speaks against it before anything is worked out."""
        if head.version != VERSION:
            return Refusal.VERSION
        if head.key_id not in self._gossip_keys:
            return Refusal.KEY
        if head.sender == self._me:
            return Refusal.OWN
        if session is not None and not session.is_new(head.counter):
            return Refusal.REPLAYED
        return None

    def _keep(self, sender: bytes, boot_id: bytes, session: "_Session") -> None:
        """As the latest that was heard of; beyond the bounds the one unheard of for longest goes."""
        boots = self._boots.setdefault(sender, OrderedDict())
        boots[boot_id] = None
        boots.move_to_end(boot_id)
        self._sessions[sender, boot_id] = session
        self._sessions.move_to_end((sender, boot_id))
        if len(boots) > self._sessions_each:
            self._forget(sender, next(iter(boots)))
        if len(self._sessions) > self._most_sessions:
            self._forget(*next(iter(self._sessions)))

    def _forget(self, sender: bytes, boot_id: bytes) -> None:
        del self._sessions[sender, boot_id]
        del self._boots[sender][boot_id]
        if not self._boots[sender]:
            del self._boots[sender]


class _Header(NamedTuple):
    version: int
    key_id: bytes
    sender: bytes
    boot_id: bytes
    counter: int


@attrs.define
class _Session:
    """One start of one sender: the latest counter, and a bit for each of the `WINDOW` up to it that was taken."""

    latest: int
    seen: int = 0
    ciphers: dict[bytes, ChaCha20Poly1305] = attrs.field(factory=dict)

    def is_new(self, counter: int) -> bool:
        behind = self.latest - counter
        return behind < 0 or (behind < WINDOW and not self.seen >> behind & 1)

    def take(self, counter: int) -> None:
        ahead = counter - self.latest
        if ahead >= WINDOW:
            self.seen = 0  # not shifted by a number that a sender chose
        elif ahead > 0:
            self.seen = self.seen << ahead & (1 << WINDOW) - 1
        self.latest = max(self.latest, counter)
        self.seen |= 1 << (self.latest - counter)


def sender_of(datagram: bytes) -> str | None:
    """Whose it claims to be; None for what has no header of ours."""
    if len(datagram) < HEADER.size or datagram[0] != VERSION:
        return None
    return _Header(*HEADER.unpack_from(datagram)).sender.hex()


def _id_bytes(node_id: str) -> bytes:
    """A node id, 32 hex digits, as it lies in a header."""
    found = bytes.fromhex(node_id)
    if len(found) != ID_BYTES:
        raise ValueError(f"{node_id!r} is no node id: it has 32 hex digits")
    return found
