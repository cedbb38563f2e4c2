"""Where a follow of a tail begins: told before its first line, for who loses the connection until then."""

from contextlib import aclosing

from mill.logs.frames import LogRequest
from mill.logs.store import Logs
from tests.logs.lab import Writer, text, wait_until


async def test_a_follow_of_a_tail_is_told_at_once_where_it_begins_and_goes_on_there(logs: Logs) -> None:
    with Writer(await logs.open("a-1")) as task:
        task.out(b"one\ntwo\n")
        await wait_until(lambda: logs.budget.output_bytes == 8)
        async with aclosing(logs.read("a-1", LogRequest(follow=True, tail=0))) as chunks:
            place = await anext(chunks)
        task.out(b"three\n")
    await logs.drain("a-1")
    assert (place.data, place.dropped_bytes, place.cursor) == (b"", 0, "8-0")
    assert await text(logs, "a-1", follow=True, tail=0) == b""
    assert await text(logs, "a-1", follow=True, tail=0, cursor=place.cursor) == b"three\n"
