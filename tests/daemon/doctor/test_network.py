"""Ports and who has them, by real listeners; nftables by the real kernel."""

import errno
import os
import socket

import pytest

from mill.config import Config
from mill.daemon.doctor import network
from mill.daemon.doctor.host import Host

FREE = "127.0.0.1:0"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_who_listens_is_named(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as taken:
        port = taken.getsockname()[1]
        shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        (finding, _) = network.ports(Host(Config(listen=shown, dns_listen=FREE)))
        assert finding.level == "problem"
        assert f"in use by pid {os.getpid()} (" in finding.found
        assert "--listen" in finding.advice[0]
    (finding, _) = network.ports(Host(Config(listen=shown, dns_listen=FREE)))
    assert (finding.level, "is free" in finding.found) == ("ok", True)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_who_has_the_port_of_dns_is_named_by_tcp_and_by_udp(kind: int, address: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as taken:
        taken.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        port = taken.getsockname()[1]
        shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        _, finding = network.ports(Host(Config(listen=FREE, dns_listen=shown)))
        assert finding.level == "problem"
        assert f"{shown} (DNS) is in use by pid {os.getpid()} (" in finding.found
        assert "--dns-listen" in finding.advice[0]
    _, finding = network.ports(Host(Config(listen=FREE, dns_listen=shown)))
    assert (finding.level, finding.found) == ("ok", f"{shown} (DNS) is free")


def test_an_address_of_another_host() -> None:
    (finding, _) = network.ports(Host(Config(listen="192.0.2.1:4400", dns_listen=FREE)))
    assert finding.level == "problem"
    assert "cannot listen on 192.0.2.1:4400" in finding.found


def test_milld_s_own_port_is_no_conflict() -> None:
    used = OSError(errno.EADDRINUSE, "Address already in use")
    port = network.Port("127.0.0.1:4400")
    assert network.judge_port(port, used, 7, 7, "milld").level == "ok"
    assert network.judge_port(port, used, 7, None, "other").level == "problem"
    unseen = network.judge_port(port, used, None, 7, "")
    assert (unseen.level, "cannot be seen" in unseen.found) == ("problem", True)


def test_nftables_answers_or_says_why_not() -> None:
    (finding,) = network.nftables(Host(Config()))
    assert finding.level in {"ok", "warning"}
    assert "could not" not in finding.found
    refused = network.judge_nftables("Operation not supported", None)
    assert (refused.level, "Operation not supported" in refused.found) == ("warning", True)
    assert "not installed" in network.judge_nftables("", None).found
    assert network.judge_nftables("", "/usr/sbin/nft").found == "the kernel takes rules"
