"""``/peer/secret``: what nodes ask of each other to change the cluster's secret. Part of the peers' application, for nodes alone.

A secret is told in one place, to a node that is to install it, and asked for nowhere.
"""

from typing import Protocol

import attrs
from quart import Blueprint, Response

from mill.api.answers import json_answer
from mill.api.orders import body
from mill.model import Kept, RotatedSecret
from mill.security.rotation import RingView, Step


@attrs.frozen
class SecretState(Kept):
    """A node's ring, and the ids of all nodes that it knows of."""

    ring: RingView
    nodes: tuple[str, ...] = ()


@attrs.frozen
class Ordered(Kept):
    """*step* of the secret with that key id; *secret* is its text, where it is to be installed."""

    step: Step
    key_id: str
    secret: str = attrs.field(default="", repr=False)


class OwnSecret(Protocol):
    """As `daemon.rotation.Rotation`."""

    def state(self) -> SecretState: ...

    async def obey(self, ordered: Ordered) -> None:
        """Returns once it holds, and is on disk. `Conflict`, `NotFound`, `Unavailable`."""

    async def rotate(self) -> RotatedSecret:
        """As `api.core.NodeService.rotate_secret`."""


def routes(secret: OwnSecret) -> Blueprint:
    """The routes, over *secret*."""
    found = Blueprint("peer_secret", __name__)

    @found.get("/peer/secret")
    async def state() -> Response:
        return json_answer(secret.state())

    @found.post("/peer/secret")
    async def obey() -> Response:
        await secret.obey(await body(Ordered))
        return json_answer(secret.state())

    @found.post("/peer/secret/rotate")
    async def rotate() -> Response:
        return json_answer(await secret.rotate())

    return found
