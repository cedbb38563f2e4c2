"""What shows a pull, on a real terminal of any size, and where there is none."""

import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TextIO

import attrs
import pytest

from mill.cli import progress
from mill.cli.progress import Bars, Told, Unseen
from mill.model import LayerProgress, LayerState, PullProgress, Record, Spec, Status, Time, Times
from tests.screen import Screen

RECORD = Record(
    "x-ab12",
    Spec("team/agent:v3", "x"),
    Status.STARTING,
    "n",
    "n1",
    "x-ab12.mill:8080",
    Times(Time(1000.0), pulled=Time(1083.0)),
)


def pull(done: int, layers: int = 3) -> PullProgress:
    each = [LayerProgress(f"sha256:{n:064x}", LayerState.DOWNLOADING, done, 100) for n in range(layers)]
    return PullProgress(done * layers, 100 * layers, tuple(each))


@attrs.define
class Terminal:
    """A real one as our stderr, and the screen that it drives."""

    ours: int
    theirs: int
    stream: TextIO
    screen: Screen
    written: str = ""

    @contextmanager
    def shown(self) -> Iterator[Unseen]:
        with redirect_stderr(self.stream), progress.shown(clock) as view:
            yield view

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def look(self) -> str:
        """The screen's text once it has all that was written."""
        os.write(self.theirs, b"\0")  # of the same queue: all else has come before it
        text = b""
        while not text.endswith(b"\0"):
            text += os.read(self.ours, 65536)
        self.written = text[:-1].decode()
        return self.screen.feed(self.written).text


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Of 60 columns and 10 lines, with a prompt on it."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with os.fdopen(theirs, "w", encoding="utf-8", closefd=False) as stream:
        terminal = Terminal(ours, theirs, stream, Screen(60, 10).feed("$ mill\n"))
        terminal.resize(60, 10)
        yield terminal
    os.close(ours)
    os.close(theirs)


def clock() -> float:
    return 100.0


def test_each_frame_is_written_over_the_one_before(terminal: Terminal) -> None:
    with terminal.shown() as view:
        assert isinstance(view, Bars)
        for done in (0, 33, 66):
            view.show("app", pull(done))
            lines = terminal.look().splitlines()
            assert lines[:2] == ["$ mill", "pulling app"]
            assert lines[-1].startswith(f"total         {done}%")
            assert len(lines) == 6


def test_no_frame_first_erases_what_it_is_about_to_write(terminal: Terminal) -> None:
    """That would flicker: each line is overwritten, then what is right of it erased."""
    with terminal.shown() as view:
        view.show("app", pull(0))
        terminal.look()
        view.show("app", pull(50))
        terminal.look()
        assert terminal.written.startswith("\r\x1b[5A")
        assert "\x1b[J" not in terminal.written.removesuffix("\x1b[J")
        assert terminal.written.count("\x1b[K") == 5


def test_afterwards_the_screen_is_as_before(terminal: Terminal) -> None:
    with terminal.shown() as view:
        view.show("app", pull(50))
        assert "50%" in terminal.look()
    assert terminal.look() == "$ mill\n"
    assert (terminal.screen.row, terminal.screen.column) == (1, 0)


def test_an_interrupt_leaves_the_screen_clean_too(terminal: Terminal) -> None:
    def interrupted() -> None:
        with terminal.shown() as view:
            view.show("app", pull(50))
            os.write(terminal.theirs, b"^C")  # as the terminal echoes it
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert terminal.look() == "$ mill\n"


def test_something_else_may_be_said_in_between(terminal: Terminal) -> None:
    with terminal.shown() as view:
        view.show("app", pull(50))
        view.hide()
        sys.stderr.write("a word\n")
        view.show("app", pull(60))
        assert terminal.look().splitlines()[:3] == ["$ mill", "a word", "pulling app"]
    assert terminal.look() == "$ mill\na word\n"


@pytest.mark.parametrize("width", [30, 41, 59, 61, 200])
def test_a_terminal_that_changes_its_width_stays_clean(terminal: Terminal, width: int) -> None:
    with terminal.shown() as view:
        view.show("app", pull(50, layers=2))
        terminal.look()
        terminal.screen.resize(width)
        terminal.resize(width, 10)
        view.show("app", pull(60, layers=2))
        lines = terminal.look().splitlines()
        assert lines[:2] == ["$ mill", "pulling app"]
        assert len(lines) == 5
        assert lines[-1].startswith("total")
    assert terminal.look() == "$ mill\n"


def test_a_frame_fits_a_terminal_of_few_lines(terminal: Terminal) -> None:
    terminal.resize(60, 4)
    terminal.screen.height = 4
    with terminal.shown() as view:
        for done in (0, 50, 90):
            view.show("app", pull(done))
            assert terminal.look().splitlines()[:2] == ["$ mill", "pulling app"]
    assert terminal.look() == "$ mill\n"


def test_a_terminal_that_is_gone_breaks_nothing(terminal: Terminal) -> None:
    kept = os.dup(terminal.theirs)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    with terminal.shown() as view:
        view.show("app", pull(0))
        os.dup2(nowhere, terminal.theirs)
        view.show("app", pull(50))
        os.dup2(kept, terminal.theirs)
    os.close(kept)
    os.close(nowhere)
    assert terminal.look() == "$ mill\n"


@pytest.mark.parametrize("term", ["dumb", "unknown", None])
def test_a_terminal_that_cannot_go_back_gets_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, term: str | None
) -> None:
    if term is None:
        monkeypatch.delenv("TERM")
    else:
        monkeypatch.setenv("TERM", term)
    with terminal.shown() as view:
        assert isinstance(view, Told)
        for done in (0, 50, 100):
            view.show("team/agent:v3", pull(done))
        view.say_pulled(RECORD)
    assert terminal.look() == "$ mill\nmill: pulling team/agent:v3\nmill: pulled team/agent:v3 in 1m\n"


def test_of_a_pull_that_failed_there_is_no_line_that_it_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown(clock) as view:
        view.show("team/agent:v3", pull(0))
        view.say_pulled(attrs.evolve(RECORD, status=Status.FAILED, times=Times(Time(1000.0))))
    assert capsys.readouterr().err == "mill: pulling team/agent:v3\n"


def test_of_a_pull_that_was_over_at_once_there_are_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown(clock) as view:
        view.say_pulled(RECORD)
    assert capsys.readouterr().err == ""


def test_unseen_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    view = Unseen()
    view.show("app", pull(0))
    view.hide()
    view.say_pulled(RECORD)
    assert capsys.readouterr().err == ""
