"""``/peer/drain`` and ``/peer/undrain``: what a node does with itself at another's word. Part of the peers' application."""

from typing import Protocol

from quart import Blueprint, Response

from mill.api.answers import json_answer
from mill.model import NodeView


class OwnNode(Protocol):
    """As `daemon.nodes.Nodes`."""

    async def set_own(self, *, draining: bool) -> NodeView: ...


def routes(node: OwnNode) -> Blueprint:
    """The routes; who comes here is a node of the cluster, which has asked for the caller's token."""
    found = Blueprint("peer_nodes", __name__)

    @found.post("/peer/drain")
    async def drain() -> Response:
        return json_answer(await node.set_own(draining=True))

    @found.post("/peer/undrain")
    async def undrain() -> Response:
        return json_answer(await node.set_own(draining=False))

    return found
