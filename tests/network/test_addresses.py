"""The node's part of the range, and leases: whose address is which, and when one is given again."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.errors import NoCapacity
from mill.network.addresses import Leases, first_free, gateway_of, hardware_address, subnets_of

RANGE = IPv4Network("10.99.0.0/16")
SMALL = IPv4Network("10.98.0.0/28")


def test_a_node_alone_takes_the_first_part_and_the_next_on_the_same_host_the_second() -> None:
    first = first_free(RANGE, [])
    assert first == IPv4Network("10.99.0.0/22")
    assert first_free(RANGE, [IPv4Network("10.99.0.0/22")]) == IPv4Network("10.99.4.0/22")
    assert first_free(RANGE, [IPv4Network("10.99.1.0/24")]) == IPv4Network("10.99.4.0/22")
    assert first_free(RANGE, [RANGE]) is None


def test_a_range_below_a_node_s_usual_part_is_one_node_s() -> None:
    assert list(subnets_of(SMALL)) == [SMALL]
    assert len(list(subnets_of(RANGE))) == 64


def test_the_first_address_is_the_gateway_and_the_last_is_nobody_s() -> None:
    leases = Leases(SMALL)
    taken = [leases.take(str(n)) for n in range(leases.capacity)]
    assert gateway_of(SMALL) == IPv4Address("10.98.0.1")
    assert (taken[0], taken[-1], len(taken)) == (IPv4Address("10.98.0.2"), IPv4Address("10.98.0.14"), 13)
    assert Leases(IPv4Network("10.99.0.0/22")).capacity == 1021


def test_without_a_free_address_the_refusal_says_so() -> None:
    leases = Leases(SMALL)
    for n in range(leases.capacity):
        leases.take(str(n))
    with pytest.raises(NoCapacity, match=r"all 13 of 10\.98\.0\.0/28 are taken"):
        leases.take("one more")


def test_what_is_given_back_is_given_again_last() -> None:
    leases = Leases(SMALL)
    first = leases.take("a")
    assert leases.give_back("a") == first
    assert leases.give_back("a") is None
    again = [leases.take(str(n)) for n in range(leases.capacity)]
    assert again[-1] == first


def test_a_lease_goes_from_the_pool_to_its_task() -> None:
    leases = Leases(SMALL)
    address = leases.take("ready 1")
    leases.pass_on("ready 1", "task-1")
    assert (leases.of("task-1"), leases.of("ready 1"), "task-1" in leases) == (address, None, True)


def test_after_a_restart_what_is_held_is_nobody_else_s_and_the_queue_begins_behind_it() -> None:
    held = {"t-1": IPv4Address("10.98.0.2"), "t-2": IPv4Address("10.98.0.5"), "x": IPv4Address("10.1.1.1")}
    leases = Leases(SMALL, held.items())
    assert leases.held() == {"t-1": held["t-1"], "t-2": held["t-2"]}
    rest = [str(leases.take(str(n))) for n in range(11)]
    assert rest[0] == "10.98.0.6"
    assert rest[-2:] == ["10.98.0.3", "10.98.0.4"]
    assert repr(leases) == "<Leases 10.98.0.0/28 held=13 free=0>"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5))))
def test_no_two_hold_one_address_whatever_happens(steps: list[tuple[bool, int]]) -> None:
    leases = Leases(SMALL)
    for take, n in steps:
        if not take:
            leases.give_back(str(n))
        elif str(n) not in leases:
            leases.take(str(n))
        held = list(leases.held().values())
        assert len(held) == len(set(held))
        assert leases.gateway not in held


def test_a_hardware_address_follows_from_the_address_and_is_locally_administered() -> None:
    assert hardware_address(IPv4Address("10.99.0.5")).hex(":") == "02:42:0a:63:00:05"
