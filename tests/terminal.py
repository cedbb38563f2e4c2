"""A command on a terminal of its own: what the screen shows as it goes, Ctrl-C as a key, and its output apart if wanted.

Called by the tests of commands that behave differently where a person looks.
"""

import fcntl
import os
import pty
import select
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

import attrs

from tests.screen import Screen

WITHIN_S = 30.0
CTRL_C = b"\x03"


@attrs.define
class Terminal:
    """`written` is all that came to the screen, `output` the command's stdout where that is not the terminal."""

    process: subprocess.Popen[bytes]
    screen: Screen
    _ours: int
    _output: IO[bytes]
    written: str = ""
    _partial: bytes = b""

    @property
    def output(self) -> str:
        self._output.seek(0)
        return self._output.read().decode()

    def until(self, condition: Callable[[str], bool]) -> str:
        """The screen's text as soon as *condition* holds for it."""
        until = time.monotonic() + WITHIN_S
        while not condition(self.screen.text):
            assert self._read(until), f"it did not come to that, but to: {self.screen.text}"
        return self.screen.text

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def finish(self) -> int:
        """Until the command has ended and everything is on the screen; the exit code."""
        until = time.monotonic() + WITHIN_S
        while self._read(until):
            pass
        self._show(self._partial)
        return self.process.wait(WITHIN_S)

    def _read(self, until: float) -> bool:
        if not select.select([self._ours], [], [], max(0.0, until - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # Linux' way to say that the other end is closed
            return False
        data = self._partial + data
        at = max(data.rfind(b"\n"), data.rfind(b"J"), data.rfind(b"m")) + 1 or len(data)
        self._partial = data[at:]  # no sequence nor character is cut in two there
        self._show(data[:at])
        return True

    def _show(self, data: bytes) -> None:
        self.written += data.decode()
        self.screen.feed(data.decode())


@contextmanager
def on_terminal(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    width: int = 80,
    height: int = 24,
    output_too: bool = True,
) -> Iterator[Terminal]:
    """*command* started on a terminal; without *output_too* its stdout goes elsewhere."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    said = {key: value for key, value in env.items() if key not in {"COLUMNS", "LINES", "NO_COLOR"}}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=theirs,
            stdout=theirs if output_too else output,
            stderr=theirs,
            env={**said, "TERM": "xterm-256color"},
        )
        os.close(theirs)
        try:
            yield Terminal(process, Screen(width, height), ours, output)
        finally:
            process.kill()
            process.wait()
            os.close(ours)
