"""``/peer/ends``: of which of these tasks of yours might a verdict pass over the end? Part of the peers' application.

A node asks it that has only just heard of an end, before it tells it. Answered within `config.SURE_S`. Wired by `everywhere`.
"""

import attrs
from quart import Blueprint, Response

from mill.api.answers import json_answer
from mill.api.core import Ends
from mill.api.orders import body
from mill.model import Kept

ENDS = "/peer/ends"


@attrs.frozen
class Asked(Kept):
    """The body of the question."""

    tasks: list[str]


def routes(own: Ends) -> Blueprint:
    """The route; *own* are this node's."""
    found = Blueprint("peer_ends", __name__)

    @found.post(ENDS)
    async def ends() -> Response:
        asked = await body(Asked)
        return json_answer({"in_doubt": sorted(await own.in_doubt(asked.tasks))})

    return found
