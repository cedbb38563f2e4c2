"""The cluster's secret and every key that comes of it; a ring of secrets, so that one can be changed for another. Pure.

    secret (256 random bits) -> HKDF-SHA256 (RFC 5869) -> key id        says which secret, and nothing about it
                                                       -> gossip key    -> one key for each sender and each of its starts
                                                       -> authority     the seed of the key that signs nodes' certificates

Each use has a label of its own, so that no key serves two. A change of the secret, as memberlist's keyring has it: *install*
the new one everywhere, *use* it everywhere, *remove* the old one everywhere; each step may be done again, and none leads back.
`secret_file` keeps the ring, `box` and `certificates` use it; which step is due in a cluster says `rotation`.
"""

import re
from collections.abc import Iterator

import attrs
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mill.errors import Conflict, NotFound

SECRET_BYTES = 32
KEY_BYTES = 32
KEY_ID_BYTES = 4
MOST_SECRETS = 4
"""In a ring: a change needs two; more than one change at a time is a mistake that an end is put to."""
MOST_RETIRED = 64
"""Key ids of former secrets that are remembered, the latest ones."""

_SALT = b"mill/1"
_TEXT = re.compile(r"mill1-([0-9a-f]{8})-([0-9a-f]{64})")


def derive(key: bytes, label: bytes, *about: bytes, length: int = KEY_BYTES) -> bytes:
    """The key for *label*, and for what it is *about*: parts of fixed lengths, so that no two lists look alike."""
    return HKDF(SHA256(), length, _SALT, b"/".join((_SALT, label)) + b"\0" + b"".join(about)).derive(key)


@attrs.frozen
class Secret:
    """What makes nodes one cluster: whoever has it is a node. `text` is how people pass it on."""

    key: bytes = attrs.field(repr=False)
    key_id: bytes = attrs.field(init=False, repr=bytes.hex)

    def __attrs_post_init__(self) -> None:
        if len(self.key) != SECRET_BYTES:
            raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(self.key)}")
        object.__setattr__(self, "key_id", derive(self.key, b"key id", length=KEY_ID_BYTES))

    @property
    def text(self) -> str:
        """``mill1-<key id>-<secret>``; the key id tells a mistyped one from another cluster's."""
        return f"mill1-{self.key_id.hex()}-{self.key.hex()}"

    @property
    def gossip_key(self) -> bytes:
        return derive(self.key, b"gossip")

    @property
    def authority_seed(self) -> bytes:
        return derive(self.key, b"authority")


def parse(text: str) -> Secret:
    """The secret that *text* is, and nothing beside it; raises `ValueError`, which repeats nothing of it."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(
            "is no cluster secret: it reads mill1-, 8 hex digits, -, 64 hex digits, on one line; "
            "copy the first line of cluster.secret of a node"
        )
    secret = Secret(bytes.fromhex(match[2]))
    if secret.key_id.hex() != match[1]:
        raise ValueError("is not whole: a digit is wrong; copy the first line of cluster.secret of a node")
    return secret


@attrs.frozen
class Keyring:
    """The secrets that this node knows; `used` is the one that it speaks by, of all others it understands.

    `retired` has the key ids of those that were used before, whether they are still understood or not.
    """

    used: Secret
    others: tuple[Secret, ...] = ()
    retired: tuple[bytes, ...] = ()

    def __attrs_post_init__(self) -> None:
        ids = [secret.key_id for secret in self]
        if len(set(ids)) != len(ids):
            raise ValueError("a secret is there twice")
        if len(ids) > MOST_SECRETS:
            raise ValueError(f"more than {MOST_SECRETS} secrets")

    def __iter__(self) -> Iterator[Secret]:
        """All of them, the one in use first."""
        yield self.used
        yield from self.others

    def find(self, key_id: bytes) -> Secret | None:
        return next((secret for secret in self if secret.key_id == key_id), None)

    def knew(self, key_id: bytes) -> bool:
        """Whether that secret is, or was, this cluster's."""
        return self.find(key_id) is not None or key_id in self.retired

    def install(self, secret: Secret) -> "Keyring":
        """Understood from now on, not yet spoken. `Conflict` for a former one, and while another one is to be used next."""
        if self.find(secret.key_id) is not None:
            return self
        self._check_new(secret.key_id)
        coming = [other.key_id.hex() for other in self.others if other.key_id not in self.retired]
        if coming:
            raise Conflict(f"another change of the secret has begun, to {', '.join(coming)}: end that first")
        if len(self.others) + 1 >= MOST_SECRETS:
            raise Conflict(f"there are {MOST_SECRETS} secrets already: remove one that is not in use")
        return attrs.evolve(self, others=(*self.others, secret))

    def use(self, key_id: bytes) -> "Keyring":
        """Spoken from now on; the one before it stays understood. `NotFound` unless it was installed; `Conflict` for a former one."""
        if self.used.key_id == key_id:
            return self
        found = self.find(key_id)
        if found is None:
            raise NotFound(f"no secret {key_id.hex()}: install it first, on every node")
        self._check_new(key_id)
        others = tuple(secret for secret in self if secret is not found)
        return Keyring(found, others, (*self.retired, self.used.key_id)[-MOST_RETIRED:])

    def remove(self, key_id: bytes) -> "Keyring":
        """Not understood any more, known or not; `Conflict` for the one in use."""
        if self.used.key_id == key_id:
            raise Conflict(f"secret {key_id.hex()} is in use: use another first, on every node")
        return attrs.evolve(self, others=tuple(s for s in self.others if s.key_id != key_id))

    def _check_new(self, key_id: bytes) -> None:
        if key_id in self.retired:
            raise Conflict(f"secret {key_id.hex()} was in use before: it does not come back")
