"""Server-sent events as they arrive in, blocks out (WHATWG HTML, section 9.2). Pure; `EventStream` reads with it."""

import attrs


@attrs.frozen
class Block:
    """One event: its name, its data, and the id that holds from it on. Without data it only says that id."""

    name: str
    data: str
    id: str | None


class SseDecoder:
    """What a break cut off stays inside and is asked for again."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = "message"
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, data: bytes) -> list[Block]:
        """The blocks that *data* completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        blocks = []
        for line in whole:
            if not line:
                blocks.append(Block(self._name, "\n".join(self._data), self._id))
                self._name, self._data, self._id = "message", [], None
                continue
            field, _, value = line.decode().partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                self._name = value
            elif field == "data":
                self._data.append(value)
            elif field == "id":
                self._id = value
        return blocks
