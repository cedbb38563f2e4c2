"""Values as JSON answers. Used by every route; the shape of a value is `mill.convert`'s to say."""

import json
from collections.abc import Iterable
from typing import Any

from quart import Response

from mill.api.core import Core
from mill.config import SURE_S
from mill.convert import to_json
from mill.model import Record


def json_answer(value: Any, status: int = 200) -> Response:
    """*value*, of the model or plain data, as JSON in UTF-8."""
    return Response(json.dumps(to_json(value)), status=status, content_type="application/json")


def marked(core: Core, value: Any) -> Any:
    """*value*, which tells what other nodes do, with ``partial`` where they may know better."""
    if core.fleet is None or not core.fleet.partial:
        return value
    return {**to_json(value), "partial": True}


async def told(core: Core, value: Any, records: Iterable[Record], within_s: float = SURE_S) -> Any:
    """*value*, which tells of *records*, with ``partial`` also where other nodes have to hear of an end first, and do not *within_s*."""
    if core.ends is not None:
        ended = [record.id for record in records if record.status.terminal]
        if ended and await core.ends.in_doubt(ended, within_s):
            return {**to_json(value), "partial": True}
    return marked(core, value)


def nothing() -> Response:
    """204: done, and nothing to say (RFC 9110: without a Content-Length)."""
    answer = Response(b"", status=204)
    for name in ("Content-Length", "Content-Type"):
        answer.headers.pop(name, None)
    return answer
