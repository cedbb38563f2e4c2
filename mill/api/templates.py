"""``/v1/templates``: named drafts of tasks, from the node's file (read-only here) and from the API."""

from quart import Blueprint, Response

from mill.api.answers import json_answer, nothing
from mill.api.core import Core
from mill.api.request import Query, json_body
from mill.api.scopes import needs
from mill.checks import is_label
from mill.containerd import reference
from mill.errors import FieldError, NotFound
from mill.model import Draft, Scope, Template


def routes(core: Core) -> Blueprint:
    """The routes, over *core*."""
    found = Blueprint("templates", __name__)

    @found.get("/v1/templates")
    @needs(Scope.READ)
    async def listing() -> Response:
        Query().done()
        return json_answer({"templates": sorted(core.templates.all().values(), key=lambda t: t.name)})

    @found.get("/v1/templates/<name>")
    @needs(Scope.READ)
    async def get(name: str) -> Response:
        Query().done()
        template = core.templates.all().get(name)
        if template is None:
            raise NotFound(f"no template {name[:80]!r}")
        return json_answer(template)

    @found.put("/v1/templates/<name>")
    @needs(Scope.ADMIN)
    async def put(name: str) -> Response:
        Query().done()
        if not is_label(name):
            raise FieldError("name", f"{name[:80]!r} is no DNS label: use a-z, 0-9 and inner hyphens")
        draft = await json_body(Draft)
        _check_image(draft)
        template = Template(name, draft)
        await core.templates.put(template)
        return json_answer(template)

    @found.delete("/v1/templates/<name>")
    @needs(Scope.ADMIN)
    async def delete(name: str) -> Response:
        Query().done()
        await core.templates.delete(name)
        return nothing()

    return found


def _check_image(draft: Draft) -> None:
    if draft.image is not None:
        try:
            reference.parse(draft.image)
        except ValueError as error:
            raise FieldError("image", str(error)) from None
