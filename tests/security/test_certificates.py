"""The authority is the secret's, the same everywhere; what it signs says which node it is of, and OpenSSL agrees."""

import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from mill.security.certificates import (
    ANY_NODE,
    BACKDATED,
    LIFETIME,
    Authority,
    Subject,
    node_id_of,
    node_name,
)
from mill.security.keys import Secret

NODE = "0123456789abcdef" * 2
NOW = 1_800_000_000.0
ONE, TWO = Secret(b"1" * 32), Secret(b"2" * 32)
SUBJECT = Subject(NODE, ("localhost", "db-1"), (ip_address("192.0.2.7"), ip_address("2001:db8::7")))


def issue(authority: Authority, subject: Subject = SUBJECT) -> x509.Certificate:
    return authority.issue(subject, Ed25519PrivateKey.generate().public_key(), NOW)


def test_every_node_works_out_the_same_authority() -> None:
    assert Authority(ONE).pem == Authority(ONE).pem
    assert Authority(ONE).pem != Authority(TWO).pem
    assert Authority(ONE).certificate.subject != Authority(TWO).certificate.subject


def test_a_certificate_by_one_node_is_trusted_by_all_others() -> None:
    issue(Authority(ONE)).verify_directly_issued_by(Authority(ONE).certificate)


def test_another_cluster_does_not_trust_it() -> None:
    with pytest.raises(ValueError):
        issue(Authority(ONE)).verify_directly_issued_by(Authority(TWO).certificate)


def test_openssl_verifies_the_chain_strictly_for_both_sides_and_by_name(tmp_path: Path) -> None:
    """Another implementation than the one that made it, at the strictest that it has."""
    authority = Authority(ONE)
    ca, leaf, other = tmp_path / "ca.pem", tmp_path / "leaf.pem", tmp_path / "other.pem"
    ca.write_text(authority.pem)
    leaf.write_bytes(issue(authority).public_bytes(Encoding.PEM))
    other.write_text(Authority(TWO).pem)

    def verify(*options: str, trusted: Path = ca) -> bool:
        command = [
            "openssl",
            "verify",
            "-x509_strict",
            "-attime",
            str(int(NOW)),
            *options,
            "-CAfile",
            str(trusted),
            str(leaf),
        ]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    for purpose in ("sslserver", "sslclient"):
        assert verify("-purpose", purpose)
        assert not verify("-purpose", purpose, trusted=other)
    assert not verify("-purpose", "smimesign")
    for name in (node_name(NODE), ANY_NODE, "localhost", "db-1"):
        assert verify("-verify_hostname", name)
    assert not verify("-verify_hostname", node_name("f" * 32))
    for address in ("192.0.2.7", "2001:db8::7"):
        assert verify("-verify_ip", address)
    assert not verify("-verify_ip", "192.0.2.8")


def test_a_node_cannot_pass_on_the_authority() -> None:
    constraints = issue(Authority(ONE)).extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca is False


def test_a_clock_that_is_wrong_by_weeks_locks_nobody_out() -> None:
    leaf, now = issue(Authority(ONE)), datetime.fromtimestamp(NOW, UTC)
    assert leaf.not_valid_before_utc == now - BACKDATED
    assert leaf.not_valid_after_utc == now + LIFETIME
    assert timedelta(days=14) < BACKDATED < LIFETIME


def test_the_authority_lasts_as_long_as_the_secret() -> None:
    assert Authority(ONE).certificate.not_valid_after_utc.year == 9999


def test_no_two_certificates_have_one_serial() -> None:
    assert len({issue(Authority(ONE)).serial_number for _ in range(50)}) == 50


def test_the_node_is_read_from_the_names() -> None:
    names = issue(Authority(ONE)).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert node_id_of(names.get_values_for_type(x509.DNSName)) == NODE


@pytest.mark.parametrize(
    "names",
    [(), (ANY_NODE,), ("localhost",), (node_name("A" * 32),), (node_name("a" * 31),), (f"x.{node_name(NODE)}",),
     (f"{node_name(NODE)}.example.com",), (f"{node_name(NODE)}\n",), (node_name("a" * 32), node_name("b" * 32))],
)  # fmt: skip
def test_names_that_do_not_say_one_node_name_none(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="names no node"):
        node_id_of(names)
