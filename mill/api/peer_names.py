"""``/peer/names``: which of these tasks has this node, and where are they? Part of the peers' application.

A node asks it that has not heard of them, before its DNS says that there are none.
"""

import attrs
from quart import Blueprint, Response

from mill.api.answers import json_answer
from mill.api.request import json_body
from mill.dns.names import Name, Names
from mill.errors import FieldError

NAMES = "/peer/names"
MOST_NAMES = 256
"""In one question."""


@attrs.frozen
class Asked:
    """The body of the question."""

    names: list[str]


def routes(own: Names) -> Blueprint:
    """The route; *own* are the tasks of this node alone: it speaks for no other."""
    found = Blueprint("peer_names", __name__)

    @found.post(NAMES)
    async def names() -> Response:
        asked = (await json_body(Asked)).names
        if len(asked) > MOST_NAMES:
            raise FieldError("names", f"has {len(asked)} names; at most {MOST_NAMES} may be asked for")
        known = [(task_id, own.lookup(task_id)) for task_id in asked]
        return json_answer(
            {
                task_id: {"addresses": list(name.addresses), "port": name.port}
                for task_id, name in known
                if isinstance(name, Name)
            }
        )

    return found
