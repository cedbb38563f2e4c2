"""TLS as Mill speaks it: contexts for the API's side and for both sides between nodes. TLS 1.3 alone, and no switch for less.

A server's certificate is made for the very address that a client came to, on its first use, and anew when it is no longer
fresh: so none has to be kept, and an address that the host gets later is good at once. Keys never touch a disk.
`daemon` makes the one `Channels` of a node; servers and clients ask it for a context for each connection.
"""

import os
import ssl
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mill.security.certificates import RENEW_AFTER, Authority, Subject, node_id_of
from mill.security.keys import Keyring

MOST_CONTEXTS = 64
"""A host may have any number of addresses (127.0.0.0/8 alone), but few that are used; 50 kB each."""


class _Side(Enum):
    API = "api"
    PEER_SERVER = "peer server"
    PEER_CLIENT = "peer client"


class Channels:
    """The contexts of one node; *now* in unix seconds tells when a certificate is to be renewed."""

    def __init__(self, ring: Keyring, node_id: str, names: tuple[str, ...], now: Callable[[], float]) -> None:
        self._subject = Subject(node_id, names)
        self._now = now
        self._key = Ed25519PrivateKey.generate()
        self._contexts: OrderedDict[tuple[_Side, str], tuple[ssl.SSLContext, float]] = OrderedDict()
        self.use(ring)

    def use(self, ring: Keyring) -> None:
        """From the next connection on: certificates by the secret in use, trust in all of *ring*."""
        self._authority = Authority(ring.used)
        self.trusted_pem = "".join(Authority(secret).pem for secret in ring)
        self._contexts.clear()

    def api(self, address: str) -> ssl.SSLContext:
        """For the API, where users came to *address*; who they are their tokens say."""
        return self._context(_Side.API, address)

    def peer_server(self, address: str) -> ssl.SSLContext:
        """For other nodes, which came to *address*: who shows no certificate of the cluster gets no word."""
        return self._context(_Side.PEER_SERVER, address)

    def peer_client(self) -> ssl.SSLContext:
        """For a connection to another node. Ask for it by `certificates.node_name`: without a name Python checks none."""
        return self._context(_Side.PEER_CLIENT, "")

    def _context(self, side: _Side, address: str) -> ssl.SSLContext:
        key = side, address
        context, made = self._contexts.get(key, (None, 0.0))
        now = self._now()
        if context is None or not 0 <= now - made < RENEW_AFTER.total_seconds():
            context = self._make(side, address, now)
            self._contexts[key] = context, now
            if len(self._contexts) > MOST_CONTEXTS:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(key)
        return context

    def _make(self, side: _Side, address: str, now: float) -> ssl.SSLContext:
        client = side is _Side.PEER_CLIENT
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if client else ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["http/1.1"])
        if not client:
            context.num_tickets = 0  # a session resumed would outlive the trust that it was made by
        if side is not _Side.API:
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= ssl.VERIFY_X509_STRICT
            context.load_verify_locations(cadata=self.trusted_pem)
        addresses = (_address(address),) if address else ()
        subject = attrs.evolve(self._subject, addresses=addresses)
        certificate = self._authority.issue(subject, self._key.public_key(), now)
        _load(context, certificate.public_bytes(Encoding.PEM) + self._key_pem())
        return context

    def _key_pem(self) -> bytes:
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@attrs.frozen
class ApiTls:
    """What the API's server needs of *channels*."""

    channels: Channels

    def context(self, address: str) -> ssl.SSLContext:
        return self.channels.api(address)

    def state(self, certificate: Mapping[str, Any] | None) -> dict[str, Any]:  # noqa: ARG002 -- none is asked for
        return {}

    def refused(self, host: str, why: str) -> None:
        """Users do not all have the cluster's authority; they are told by their own side."""


@attrs.frozen
class PeerTls:
    """What a server for other nodes needs: the application finds the peer's node id in ``scope["state"]["peer"]``."""

    channels: Channels
    on_refused: Callable[[str, str], None] = lambda _host, _why: None

    def context(self, address: str) -> ssl.SSLContext:
        return self.channels.peer_server(address)

    def state(self, certificate: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"peer": peer_of(certificate)}

    def refused(self, host: str, why: str) -> None:
        self.on_refused(host, why)


def peer_of(certificate: Mapping[str, Any] | None) -> str:
    """The node id of a verified peer, from what `SSLSocket.getpeercert` says of it; raises `ValueError` where there is none."""
    names = (certificate or {}).get("subjectAltName", ())
    return node_id_of(value for kind, value in names if kind == "DNS")


def _address(text: str) -> IPv4Address | IPv6Address:
    """As a certificate has it: without a zone, and IPv4 as such also where a socket of IPv6 took it."""
    found = ip_address(text.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Python's ssl takes a key from a file only: this one is in memory, and nobody else's."""
    descriptor = os.memfd_create("mill-tls", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
