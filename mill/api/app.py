"""The REST API as one Quart application: routes, authentication, errors. Made by `serve`, over a `Core`."""

import logging

from quart import g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from mill.api import events, images, logs, node, nodes, problems, scopes, tasks, templates, timing, tokens
from mill.api.core import Core
from mill.api.request import PacedConnection, PacedRequest
from mill.errors import MillError, Unauthorized
from mill.model import TokenView


def make_app(core: Core) -> QuartTrio:
    """The application; every answer that is not a success is a problem of RFC 9457."""
    app = bare_app("mill")
    timing.watch(app, core.on_answer)

    @app.before_request
    async def authenticate() -> None:
        needed = scopes.scope_of(app, request.endpoint, request.path)
        if needed is not None:
            token = _caller(core)
            scopes.check(token, needed)
            g.caller, g.reach = token.name, token.scope

    for noun in (tasks, logs, events, images, templates, tokens, nodes, node):
        app.register_blueprint(noun.routes(core))
    scopes.check_declared(app)
    return app


def bare_app(name: str) -> QuartTrio:
    """Without a route: bodies and answers as `server` wants them, and errors as problems."""
    app = QuartTrio(name, static_folder=None)
    app.asgi_http_class = PacedConnection
    app.request_class = PacedRequest
    app.config["MAX_CONTENT_LENGTH"] = None  # each route sets its own bound
    app.config["RESPONSE_TIMEOUT"] = None  # the server's write deadline stands in
    app.config["BODY_TIMEOUT"] = None
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    logging.getLogger(app.logger.name).setLevel(logging.CRITICAL)  # `problems` tells what is worth telling
    app.register_error_handler(MillError, problems.answer)
    app.register_error_handler(HTTPException, problems.answer_http)
    app.register_error_handler(Exception, problems.answer_bug)
    return app


def _caller(core: Core) -> TokenView:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    who = core.tokens.who(token.strip()) if scheme.lower() == "bearer" else None
    if who is None:
        raise Unauthorized(
            "no token, or one that this node does not know: send 'Authorization: Bearer TOKEN' (MILL_TOKEN)"
        )
    return who
