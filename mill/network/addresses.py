"""Which address belongs to whom: the node's subnet out of the cluster's range, and the leases of its tasks. Pure.

An address that is given back goes to the end of the queue, so that whoever still remembers it (a client's cache, the
kernel's connection tracking) has the longest time to forget. `service` calls it and knows who holds what after a restart.
"""

from collections import deque
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

import attrs

from mill.errors import NoCapacity

NODE_PREFIX = 22
"""What each node owns of a larger range: 1021 tasks."""


def subnets_of(range_: IPv4Network) -> Iterable[IPv4Network]:
    """What nodes can own of *range_*, in order; of a small range the whole."""
    return range_.subnets(new_prefix=max(NODE_PREFIX, range_.prefixlen))


def first_free(range_: IPv4Network, taken: Iterable[IPv4Network]) -> IPv4Network | None:
    """The first part of *range_* that overlaps nothing of *taken*."""
    held = list(taken)
    return next((net for net in subnets_of(range_) if not any(net.overlaps(other) for other in held)), None)


def gateway_of(subnet: IPv4Network) -> IPv4Address:
    return subnet.network_address + 1


def hardware_address(address: IPv4Address) -> bytes:
    """The one that goes with *address*, so that nobody has to ask: locally administered, as Docker makes them."""
    return b"\x02\x42" + address.packed


class Leases:
    """The addresses of one subnet: who holds which, and the queue of the free ones."""

    def __init__(self, subnet: IPv4Network, held: Iterable[tuple[str, IPv4Address]] = ()) -> None:
        """*held* by holder, as found after a restart; the queue begins behind the highest of them."""
        self.subnet = subnet
        self.gateway = gateway_of(subnet)
        self._held = {holder: address for holder, address in held if address in subnet}
        taken = set(self._held.values())
        every = [self.gateway + n for n in range(1, subnet.num_addresses - 2)]
        self.capacity = len(every)
        last = max(taken, default=self.gateway)
        free = [address for address in every if address not in taken]
        self._free = deque(sorted(free, key=lambda address: (address < last, address)))

    def __repr__(self) -> str:
        return f"<Leases {self.subnet} held={len(self._held)} free={len(self._free)}>"

    def __contains__(self, holder: str) -> bool:
        return holder in self._held

    def take(self, holder: str) -> IPv4Address:
        """An address for *holder*, the one that has been free the longest; `NoCapacity`."""
        if not self._free:
            raise NoCapacity(self.exhausted)
        address = self._held[holder] = self._free.popleft()
        return address

    def pass_on(self, holder: str, other: str) -> None:
        """What *holder* has belongs to *other* from now on."""
        self._held[other] = self._held.pop(holder)

    def give_back(self, holder: str) -> IPv4Address | None:
        address = self._held.pop(holder, None)
        if address is not None:
            self._free.append(address)
        return address

    def of(self, holder: str) -> IPv4Address | None:
        return self._held.get(holder)

    def held(self) -> dict[str, IPv4Address]:
        return dict(self._held)

    @property
    def exhausted(self) -> str:
        return (
            f"no address is left for another task: all {self.capacity} of {self.subnet} are taken; "
            "wait for tasks to end, or use --network host"
        )


@attrs.frozen
class Peer:
    """Another node: where its part of the range is reached."""

    node_id: str
    address: IPv4Address
    subnet: IPv4Network
