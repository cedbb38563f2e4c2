"""The node's name, room and address, as configured or as the host has them."""

import os
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from mill.config import RESERVE_CPU, RESERVE_MEMORY_BYTES, Config
from mill.daemon import host
from mill.daemon.clock import SystemClock
from mill.model import Resources
from mill.units import GIB, MIB


@pytest.mark.parametrize(("hostname", "name"), [
    ("node-3", "node-3"), ("Node-3.example.com", "node-3"), ("under_score", "node"), ("", "node"), ("-x", "node"),
    ("a" * 63, "a" * 63), ("a" * 64, "node"), ("é", "node"), ("localhost", "localhost"),
])  # fmt: skip
def test_the_name_is_the_hosts_first_label(monkeypatch: pytest.MonkeyPatch, hostname: str, name: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: hostname)
    assert host.name_of(Config()) == name
    assert host.name_of(Config(name="own")) == "own"


@pytest.mark.parametrize(("cores", "memory", "room"), [
    (2, 4 * GIB, Resources(2 - RESERVE_CPU, 4 * GIB - RESERVE_MEMORY_BYTES)),
    (1, 512 * MIB, Resources(1 - RESERVE_CPU, 256 * MIB)),  # half of what is there at least
    (64, 256 * GIB, Resources(64 - RESERVE_CPU, 256 * GIB - RESERVE_MEMORY_BYTES)),
])  # fmt: skip
def test_the_room_is_what_there_is_less_a_reserve(
    monkeypatch: pytest.MonkeyPatch, cores: int, memory: int, room: Resources
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(host, "total_memory", lambda: memory)
    assert host.capacity_of(Config()) == room
    assert host.capacity_of(Config(cpu=8.0)) == Resources(8.0, room.memory)
    assert host.capacity_of(Config(memory=GIB)) == Resources(room.cpu, GIB)


def test_the_memory_is_the_kernels() -> None:
    assert host.total_memory() == pytest.approx(
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01
    )


def test_the_address_is_one_of_this_host() -> None:
    address = host.address_of(Config())
    with socket.socket() as probe:
        probe.bind((address, 0))
    assert host.address_of(Config(advertise="10.1.2.3")) == "10.1.2.3"


def test_without_a_route_it_is_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable(socket.socket):
        def connect(self, _: object) -> None:
            raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(host.socket, "socket", Unreachable)  # type: ignore[attr-defined]  # its module's import
    assert ip_address(host.address_of(Config())).is_loopback


def test_the_clocks_go_and_the_boot_is_named() -> None:
    clock, again = SystemClock.read(), SystemClock.read()
    assert clock.boot_id == again.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert clock.boottime() <= again.boottime()
    assert clock.now() > 1_700_000_000
