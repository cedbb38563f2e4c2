"""Which part of the range a node has after its end: the one that its tasks still have, else whatever is free. And its ways to other nodes."""

import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import trio

from mill.errors import Unavailable
from mill.network.addresses import Peer
from mill.network.links import Links
from mill.network.service import SUBNET_NAME, Mesh, Setup, _open, serve
from tests.world import Host, hosts, run

FIRST, SECOND = "0123456789abcdef", "fedcba9876543210"
RANGE = IPv4Network("10.99.0.0/16")
PART = IPv4Network("10.99.0.0/22")
ADDRESS = IPv4Address("10.99.0.2")


@pytest.fixture
def host() -> Iterator[Host]:
    with hosts("10.250.6.1/24") as [host]:
        yield host


def opened(host: Host, folder: Path, node: str, held: dict[str, IPv4Address]) -> Links:
    folder.mkdir(exist_ok=True)
    links = host.do(_open, Setup(node, folder, RANGE, "10.250.6.1"), held)
    host.do(links.ensure)
    return links


def test_a_node_whose_tasks_died_with_the_host_takes_another_part_when_its_own_was_taken(
    host: Host, tmp_path: Path
) -> None:
    """Their files still say which addresses they had: nobody has those any more."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / SUBNET_NAME).write_text(f"{PART}\n")
    second = opened(host, tmp_path / "second", SECOND, {})
    assert second.subnet == PART
    first = opened(host, tmp_path / "first", FIRST, {"web-a1b2": ADDRESS})
    assert str(first.subnet) == "10.99.4.0/22"
    assert (tmp_path / "first" / SUBNET_NAME).read_text() == "10.99.4.0/22\n"
    for links in (first, second):
        links.close()


def test_a_node_whose_tasks_run_on_gets_the_part_that_it_had(host: Host, tmp_path: Path) -> None:
    first = opened(host, tmp_path / "first", FIRST, {})
    descriptor = host.do(first.attach, ADDRESS)
    first.close()
    host.run("ip", "link", "delete", "mill-01234567")
    second = opened(host, tmp_path / "second", SECOND, {})
    again = opened(host, tmp_path / "first", FIRST, {"web-a1b2": ADDRESS})
    assert (again.subnet, str(second.subnet)) == (PART, "10.99.4.0/22")
    for links in (again, second):
        links.close()
    os.close(descriptor)


def test_ways_that_the_kernel_refuses_are_an_error_and_asked_for_again_they_are_made(
    host: Host, tmp_path: Path
) -> None:
    far = Peer("far", IPv4Address("10.251.0.2"), IPv4Network("10.99.8.0/22"))

    async def lead() -> None:
        async with trio.open_nursery() as nursery:
            mesh: Mesh = await nursery.start(serve, Setup(FIRST, tmp_path, RANGE, "10.250.6.1", link="auto"))
            with pytest.raises(Unavailable, match="unreachable"):
                await mesh.set_peers([far])
            assert mesh.fault is None
            run("ip", "route", "add", "10.251.0.0/24", "via", "10.250.6.5")
            await mesh.set_peers([far])
            assert "10.99.8.0/22 via 10.99.8.0 dev millx01234567" in run("ip", "route")
            nursery.cancel_scope.cancel()

    host.do(trio.run, lead)
