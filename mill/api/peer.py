"""What other nodes may ask of this one, as one Quart application. Served over mutual TLS alone: every caller is a node of the cluster.

Who calls is in ``scope["state"]["peer"]``, out of the certificate; no token is asked for. `daemon` serves it.
"""

from collections.abc import Callable
from urllib.parse import unquote

import attrs
import trio
from quart import Response, current_app, g, request
from quart_trio import QuartTrio

from mill.api import images, logs, orders, tasks
from mill.api.answers import json_answer, nothing
from mill.api.app import bare_app
from mill.api.core import Core
from mill.api.forward import CALLER, SCOPE
from mill.api.request import BODY_DEADLINE_S, body_chunks
from mill.api.scopes import scope_of
from mill.cluster.messages import Packet
from mill.cluster.values import Address
from mill.cluster.wire import MOST_BYTES, BadPacket, decode
from mill.convert import to_json
from mill.errors import CallerError, Forbidden, Unauthorized, Unavailable
from mill.model import Scope

Deliver = Callable[[Packet, Address], None]
"""Takes a packet of gossip, and whence it came; `Unavailable` while it cannot."""


Refused = Callable[[str, str], None]
"""Told of the host of who is not whom he gives himself for, and why."""


def make_peer_app(
    deliver: Deliver, core: Core | None = None, refused: Refused = lambda _host, _why: None
) -> QuartTrio:
    """The application; every answer that is not a success is a problem of RFC 9457.

    With a *core* it answers for the tasks of this node as the API does; without, all but gossip is answered 503.
    """
    app = bare_app("mill-peer")
    if core is None:
        app.add_url_rule("/<path:_>", view_func=_not_yet, methods=["GET", "POST", "DELETE"])
    else:
        _answer_for_tasks(app, core)
        if core.placement is not None:
            app.register_blueprint(orders.routes(core.placement))

    @app.post("/peer/packet")
    async def packet() -> Response:
        said = await _packet()
        if said.speaker != caller():
            refused(_source().host, f"it speaks as node {said.speaker[:8]}, and is {caller()[:8]}")
            raise Forbidden("a packet that speaks for another node than its sender")
        deliver(said, _source())
        return nothing()

    return app


async def _not_yet(_: str) -> Response:
    raise Unavailable("this node is just starting; try again")


def _answer_for_tasks(app: QuartTrio, core: Core) -> None:
    @app.get("/peer/usage")
    async def usage() -> Response:
        return json_answer({task_id: to_json(used) for task_id, used in core.tasks.usage().items()})

    alone = attrs.evolve(core, fleet=None, placement=None)  # what was passed on once is not passed on again
    for noun in (tasks, logs, images):
        blueprint = noun.routes(alone)
        blueprint.before_request(_take_over)
        app.register_blueprint(blueprint)


async def _take_over() -> None:
    """The other node has asked its caller for a token: it says whose that was, and what it reaches."""
    try:
        reach, needed = (
            Scope(request.headers.get(SCOPE, "")),
            scope_of(current_app, request.endpoint, request.path),
        )
    except ValueError:
        raise Unauthorized(f"the other node does not say for whom it asks ({CALLER}, {SCOPE})") from None
    g.caller, g.reach = unquote(request.headers.get(CALLER, "")), reach
    if needed is not None and not reach.covers(needed):
        raise Forbidden(f"the token of {g.caller} has the scope {reach}, and this needs {needed}")


def caller() -> str:
    """The node id (32 hex digits) of who asks."""
    return str(request.scope["state"]["peer"])


def _source() -> Address:
    host, port = request.scope["client"] or ("", 0)
    return Address(host, port or 0)


async def _packet() -> Packet:
    data = bytearray()
    with trio.move_on_after(BODY_DEADLINE_S) as deadline:
        async for chunk in body_chunks(MOST_BYTES):
            data += chunk
    if deadline.cancelled_caught:
        raise CallerError(f"the packet did not arrive within {BODY_DEADLINE_S:g} s")
    try:
        return decode(bytes(data))
    except BadPacket as error:
        raise CallerError(str(error)) from None
