"""What other nodes may ask of this one, as one Quart application. Served over mutual TLS alone: every caller is a node of the cluster.

Who calls is in ``scope["state"]["peer"]``, out of the certificate; no token is asked for. `daemon` serves it.
"""

from collections.abc import Callable

import trio
from quart import Response, request
from quart_trio import QuartTrio

from mill.api.answers import nothing
from mill.api.app import bare_app
from mill.api.request import BODY_DEADLINE_S, body_chunks
from mill.cluster.messages import Packet
from mill.cluster.values import Address
from mill.cluster.wire import MOST_BYTES, BadPacket, decode
from mill.errors import CallerError, Forbidden

Deliver = Callable[[Packet, Address], None]
"""Takes a packet of gossip, and whence it came; `Unavailable` while it cannot."""


def make_peer_app(deliver: Deliver) -> QuartTrio:
    """The application; every answer that is not a success is a problem of RFC 9457."""
    app = bare_app("mill-peer")

    @app.post("/peer/packet")
    async def packet() -> Response:
        said = await _packet()
        if said.speaker != caller():
            raise Forbidden("a packet that speaks for another node than its sender")
        deliver(said, _source())
        return nothing()

    return app


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
