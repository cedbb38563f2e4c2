"""``/peer/drain``, ``/peer/undrain``, ``/peer/subnet``: what a node does at another's word. Part of the peers' application."""

from ipaddress import IPv4Network
from typing import Protocol

from quart import Blueprint, Response

from mill.api.answers import json_answer
from mill.api.peer import caller
from mill.cluster.values import NodeId
from mill.model import NodeView


class OwnNode(Protocol):
    """As `daemon.nodes.Nodes`."""

    async def set_own(self, *, draining: bool) -> NodeView: ...


class Subnets(Protocol):
    """As `daemon.subnets.Subnets`."""

    async def assign(self, node: NodeId) -> IPv4Network:
        """`Unavailable` unless this node leads a majority."""


def routes(node: OwnNode, subnets: Subnets) -> Blueprint:
    """The routes; who comes here is a node of the cluster, which has asked for the caller's token."""
    found = Blueprint("peer_nodes", __name__)

    @found.post("/peer/drain")
    async def drain() -> Response:
        return json_answer(await node.set_own(draining=True))

    @found.post("/peer/undrain")
    async def undrain() -> Response:
        return json_answer(await node.set_own(draining=False))

    @found.post("/peer/subnet")
    async def subnet() -> Response:
        return json_answer({"subnet": str(await subnets.assign(NodeId(caller())))})

    return found
