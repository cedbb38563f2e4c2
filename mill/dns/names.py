"""What DNS must know of the tasks: which addresses a name has, which task an address belongs to. Pure: values and a protocol.

The daemon plugs in the node's table, a cluster its view of all nodes; tests bring dictionaries.
"""

from enum import Enum
from ipaddress import IPv4Network
from typing import Literal, NamedTuple, Protocol

import attrs


class Name(NamedTuple):
    """A task that has not ended. `addresses` are IPv4 or IPv6; none for a task without a network, or without one yet."""

    addresses: tuple[str, ...]
    port: int


class Known(Enum):
    """What is said of a name beside a yes or a no."""

    UNSURE = "unsure"
    """It is not known here, and somebody else may know: neither the name's absence nor its presence may be claimed."""


Unsure = Literal[Known.UNSURE]


class Names(Protocol):
    """Instant, and called for every query: a dictionary's speed is expected."""

    def lookup(self, task_id: str) -> Name | Unsure | None:
        """The task of that id from its 201 until its end; None if there certainly is none."""

    def reverse(self, address: str) -> str | Unsure | None:
        """The id of the task that has *address*, one of the mesh's, for itself."""


@attrs.frozen
class Learnt:
    """As `Names`: of the one name that somebody was asked about."""

    found: Name | Unsure | None

    def lookup(self, task_id: str) -> Name | Unsure | None:  # noqa: ARG002 -- it is the one
        return self.found

    def reverse(self, address: str) -> str | Unsure | None:  # noqa: ARG002 -- nobody was asked about it
        return Known.UNSURE


@attrs.frozen
class Zone:
    """``mill.`` as one node serves it: the names, the node's own address (``ns.mill.``), and what tasks' addresses come from."""

    names: Names
    address: str
    mesh: IPv4Network | None = None
