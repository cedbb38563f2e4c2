"""``/v1/status``, ``/v1/metrics``, ``/v1/openapi.json`` and ``/healthz``: the node itself."""

from quart import Blueprint, Response, request

from mill.api.answers import json_answer
from mill.api.core import Core
from mill.api.openapi import document
from mill.api.request import Query
from mill.api.scopes import needs, public
from mill.model import Scope


def routes(core: Core) -> Blueprint:
    """The routes, over *core*."""
    found = Blueprint("node", __name__)
    schema = document(core.version)

    @found.get("/v1/status")
    @needs(Scope.READ)
    async def status() -> Response:
        Query().done()
        return json_answer(core.status())

    @found.get("/v1/metrics")
    @needs(Scope.READ)
    async def metrics() -> Response:
        Query().done()
        said = await core.metrics(request.headers.get("Accept", ""))
        return Response(said.body, content_type=said.content_type)

    @found.get("/v1/openapi.json")
    @needs(Scope.READ)
    async def openapi() -> Response:
        Query().done()
        return json_answer(schema)

    @found.get("/healthz")
    @public
    async def health() -> Response:
        healthy = core.healthy()
        return json_answer(
            {"status": "ok" if healthy else "containerd does not answer"}, 200 if healthy else 503
        )

    return found
