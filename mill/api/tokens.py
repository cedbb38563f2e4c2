"""``/v1/tokens``: who may use the API. A token itself is told once, when it is made."""

from quart import Blueprint, Response

from mill.api.answers import json_answer, nothing
from mill.api.core import Core
from mill.api.request import Query, json_body
from mill.api.scopes import needs
from mill.convert import to_json
from mill.model import Scope, TokenRequest


def routes(core: Core) -> Blueprint:
    """The routes, over *core*."""
    found = Blueprint("tokens", __name__)

    @found.get("/v1/tokens")
    @needs(Scope.ADMIN)
    async def listing() -> Response:
        Query().done()
        return json_answer({"tokens": core.tokens.all()})

    @found.post("/v1/tokens")
    @needs(Scope.ADMIN)
    async def create() -> Response:
        Query().done()
        made = await core.tokens.create(await json_body(TokenRequest))
        return json_answer({"token": made.token, **to_json(made.view)}, 201)

    @found.delete("/v1/tokens/<token_id>")
    @needs(Scope.ADMIN)
    async def delete(token_id: str) -> Response:
        Query().done()
        await core.tokens.delete(token_id)
        return nothing()

    return found
