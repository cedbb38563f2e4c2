"""The cluster's authority and the certificates of its nodes, made of the secret: whoever has the secret is a node.

The authority is the same, byte for byte, wherever it is worked out: an Ed25519 key (RFC 8032) from the secret, a certificate
with fixed dates and serial. So nobody keeps its key or asks anybody for a certificate: each node makes its own, with a key
that lives as long as its process. A certificate says who the node is by two DNS names, ``<node id>.node.mill`` and
`ANY_NODE` (all of them have it), beside the names and addresses that users reach it by. `channel` uses them.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mill.security.keys import Secret

ANY_NODE = "any.node.mill"
"""The name to ask a node for whose id is not known yet: then any of the cluster will do."""
LIFETIME = timedelta(days=365)
"""Of a node's certificate; `RENEW_AFTER` keeps it fresh."""
RENEW_AFTER = timedelta(days=30)
BACKDATED = timedelta(days=30)
"""Clocks that are wrong are no reason to lock a node out: who has the secret can make any date anyway."""

_FIRST = datetime(2020, 1, 1, tzinfo=UTC)
_NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""The date of RFC 5280 (4.1.2.5) for what has no end: the secret's own end is its authority's."""
_NODE_NAME = re.compile(r"([0-9a-f]{32})\.node\.mill")


def node_name(node_id: str | None) -> str:
    """What a client asks a node's certificate for."""
    return ANY_NODE if node_id is None else f"{node_id}.node.mill"


def node_id_of(names: Iterable[str]) -> str:
    """The node that a certificate with these DNS names is of; raises `ValueError` unless they name one."""
    found = [match[1] for name in names if (match := _NODE_NAME.fullmatch(name))]
    if len(found) != 1:
        raise ValueError("the certificate names no node")
    return found[0]


@attrs.frozen
class Subject:
    """What a node's certificate says of it: its id, and where users reach it."""

    node_id: str
    names: tuple[str, ...] = ()
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()

    def alternative(self) -> x509.SubjectAlternativeName:
        names = dict.fromkeys((node_name(self.node_id), ANY_NODE, *self.names))
        addresses = dict.fromkeys(self.addresses)
        return x509.SubjectAlternativeName(
            [*map(x509.DNSName, names), *(x509.IPAddress(address) for address in addresses)]
        )


class Authority:
    """What signs the certificates of all nodes that have *secret*."""

    def __init__(self, secret: Secret) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret.authority_seed)
        self._name = _name("Mill cluster", secret.key_id.hex())
        self._key_identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self.certificate = self._own()

    @property
    def pem(self) -> str:
        """The certificate that whoever trusts the cluster is given."""
        return self.certificate.public_bytes(Encoding.PEM).decode("ascii")

    def issue(self, subject: Subject, key: Ed25519PublicKey, now: float) -> x509.Certificate:
        """A node's certificate, for both sides of a connection; *now* in unix seconds."""
        moment = datetime.fromtimestamp(now, UTC)
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._key_identifier)
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name("Mill node", subject.node_id))
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment - BACKDATED)
            .not_valid_after(moment + LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_data=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(subject.alternative(), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(authority, critical=False)
        )
        return builder.sign(self._key, None)

    def _own(self) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(1)
            .not_valid_before(_FIRST)
            .not_valid_after(_NEVER)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_data=False), critical=True)
            .add_extension(self._key_identifier, critical=False)
        )
        return builder.sign(self._key, None)


def _name(kind: str, which: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Mill"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{kind} {which}"),
        ]
    )


def _usage(*, signs_data: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs_data,
        key_cert_sign=not signs_data,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
