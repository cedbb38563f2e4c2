"""A follow may be silent for longer than any time limit of a server. It runs beside all other tests (see `conftest`)."""

from tests.scenarios.conftest import SILENT_S, Silence


def test_a_silent_follow_begins(silence: Silence) -> None:
    assert silence.thread.is_alive()


def test_a_silent_follow_is_over(silence: Silence) -> None:
    """Looked at last."""
    silence.thread.join(SILENT_S + 20)
    assert (silence.error, silence.thread.is_alive()) == ("", False)
    assert silence.took_s >= SILENT_S
    assert len(silence.lines) == 1
    assert "at last" in silence.lines[0]
