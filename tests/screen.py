"""What a terminal would show: the few escape sequences that Mill uses, on a screen that wraps, scrolls and can be resized.

Anything else that is written to it is an error, so that no sequence slips in which no test has thought of.
"""

import re

import attrs

_TOKEN = re.compile(r"\x1b\[(\d*)(?:;\d+)*([A-Za-z])|([^\x1b])", re.DOTALL)


@attrs.define
class Screen:
    """`rows` also has what was scrolled away; a row that goes on in the next one is in `wrapped`."""

    width: int
    height: int
    rows: list[str] = attrs.field(factory=lambda: [""])
    wrapped: set[int] = attrs.field(factory=set)
    row: int = 0
    column: int = 0

    @property
    def text(self) -> str:
        return "\n".join(row.rstrip() for row in self.rows)

    def feed(self, text: str) -> "Screen":
        at = 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            assert token is not None, f"unknown to this terminal: {text[at : at + 20]!r}"
            at = token.end()
            if token[2]:
                self._control(token[2], int(token[1] or 1) if token[2] == "A" else int(token[1] or 0))
            else:
                self._put(token[3])
        return self

    def _control(self, letter: str, number: int) -> None:
        if letter == "A":
            self.row = max(len(self.rows) - self.height, 0, self.row - number)
        elif letter == "K":
            assert number == 0
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif letter == "J":
            assert number == 0
            self.rows[self.row] = self.rows[self.row][: self.column]
            del self.rows[self.row + 1 :]
            self.wrapped = {row for row in self.wrapped if row < self.row}
        else:
            assert letter == "m", f"unknown to this terminal: ESC [ {letter}"

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.wrapped.discard(self.row)
            self._next_row()
        else:
            assert character.isprintable(), repr(character)
            if self.column == self.width:
                self.wrapped.add(self.row)
                self._next_row()
            row = self.rows[self.row]
            self.rows[self.row] = row[: self.column].ljust(self.column) + character + row[self.column + 1 :]
            self.column += 1

    def _next_row(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.rows.append("")

    def resize(self, width: int) -> None:
        """As most terminals do it: what was one line stays one, on more rows or fewer. The cursor must be below all."""
        assert (self.row, self.column, self.rows[self.row]) == (len(self.rows) - 1, 0, "")
        lines = [""]
        for number, row in enumerate(self.rows):
            lines[-1] += row
            if number not in self.wrapped:
                lines.append("")
        text = "\n".join(lines[:-1])
        self.width, self.rows, self.wrapped, self.row, self.column = width, [""], set(), 0, 0
        self.feed(text)
