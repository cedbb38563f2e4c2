"""``/v1/nodes``: the nodes, draining one, forgetting one, how another one joins, and their secret."""

from quart import Blueprint, Response

from mill.api.answers import json_answer, marked
from mill.api.core import Core
from mill.api.request import Query
from mill.api.scopes import needs
from mill.model import Scope


def routes(core: Core) -> Blueprint:
    """The routes, over *core*."""
    found = Blueprint("nodes", __name__)

    @found.get("/v1/nodes")
    @needs(Scope.READ)
    async def listing() -> Response:
        Query().done()
        return json_answer(marked(core, {"nodes": core.nodes.all()}))

    @found.post("/v1/nodes/<node>/drain")
    @needs(Scope.ADMIN)
    async def drain(node: str) -> Response:
        Query().done()
        return json_answer(await core.nodes.drain(node))

    @found.post("/v1/nodes/<node>/undrain")
    @needs(Scope.ADMIN)
    async def undrain(node: str) -> Response:
        Query().done()
        return json_answer(await core.nodes.undrain(node))

    @found.delete("/v1/nodes/<node>")
    @needs(Scope.ADMIN)
    async def forget(node: str) -> Response:
        Query().done()
        return json_answer(await core.nodes.forget(node))

    @found.post("/v1/rotate-secret")
    @needs(Scope.ADMIN)
    async def rotate_secret() -> Response:
        Query().done()
        return json_answer(await core.nodes.rotate_secret())

    @found.get("/v1/join-command")
    @needs(Scope.ADMIN)
    async def join_command() -> Response:
        Query().done()
        return json_answer(core.nodes.join_command())

    return found
