"""``/peer/place`` and its like: what nodes ask each other to find a node for a task. Part of `peer`'s application, for nodes alone."""

from typing import TypeVar

import attrs
from quart import Blueprint, Response

from mill.api.answers import json_answer, nothing
from mill.api.core import Placement
from mill.api.request import json_object
from mill.convert import from_json
from mill.errors import CallerError
from mill.model import Kept, Keyed
from mill.tasks.orders import Order, Wanted

T = TypeVar("T")


@attrs.frozen
class Sent(Kept):
    """An order, and by whose mandate it goes."""

    order: Order
    term: int = 0
    leader: str = ""


@attrs.frozen
class Released(Kept):
    key: str
    request: str


@attrs.frozen
class TakenBack(Kept):
    task_id: str


def routes(placement: Placement) -> Blueprint:
    """The routes, over *placement*."""
    found = Blueprint("orders", __name__)

    @found.post("/peer/place")
    async def place() -> Response:
        return json_answer(await placement.plan(await body(Wanted)))

    @found.post("/peer/admit")
    async def admit() -> Response:
        sent = await body(Sent)
        return json_answer(await placement.admit(sent.order, sent.term, sent.leader), 201)

    @found.post("/peer/key")
    async def key() -> Response:
        return json_answer(await placement.keyed(await body(Keyed)))

    @found.post("/peer/release")
    async def release() -> Response:
        said = await body(Released)
        placement.release(said.key, said.request)
        return nothing()

    @found.post("/peer/withdraw")
    async def withdraw() -> Response:
        placement.withdraw((await body(TakenBack)).task_id)
        return nothing()

    return found


async def body(kind: type[T]) -> T:
    """As nodes write it to each other: what only a newer Mill knows is kept."""
    try:
        return from_json(kind, await json_object())
    except (ExceptionGroup, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CallerError(f"another Mill's {kind.__name__} that this one cannot read: {error}") from None
