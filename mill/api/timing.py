"""How long answers take to begin, told to whoever counts them. `app` has every request watched; a route may be left out."""

import re
from collections.abc import Callable

import trio
from quart import Quart, Response, g, request

from mill.api.core import Answered

NO_ROUTE = "other"
_METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS".split())


def watch(app: Quart, on_answer: Callable[[Answered], None]) -> None:
    """Tell *on_answer* of every request that the application answers. To be called before anything may refuse one."""

    @app.before_request
    async def begin() -> None:
        g.began = trio.current_time()

    @app.after_request
    async def end(answer: Response) -> Response:
        seconds = None if "untimed" in g else trio.current_time() - g.began
        method = request.method if request.method in _METHODS else NO_ROUTE
        on_answer(Answered(_route(), method, answer.status_code, seconds))
        return answer


def untimed() -> None:
    """The request under way waits for something to happen: how long that takes says nothing of the API."""
    g.untimed = True


def _route() -> str:
    """The path's template, so that there are no more of them than routes."""
    if request.url_rule is None:
        return NO_ROUTE
    return re.sub(r"<(?:\w+:)?(?:\w+_)?(\w+)>", r"{\1}", request.url_rule.rule)
