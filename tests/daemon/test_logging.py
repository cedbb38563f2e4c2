"""What milld's log looks like, and what it never holds."""

import io
import json
import sys
from collections.abc import Iterator

import pytest
import structlog

from mill.daemon import main


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[io.StringIO, Terminal], ids=["file", "terminal"])
def stderr(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log of a milld whose stderr is that; the test process gets its own setup back."""
    before = structlog.get_config()
    written: io.StringIO = request.param()
    monkeypatch.setattr(sys, "stderr", written)
    main._set_up_logging()
    yield written
    structlog.configure(**before)


def deeper(headers: dict[str, str]) -> None:
    try:
        int(str(len(headers)) + " is no number")
    except ValueError as error:
        raise LookupError("what went wrong") from error


def fail(token: str) -> None:
    try:
        deeper({"Authorization": f"Bearer {token}"})
    except LookupError as error:
        structlog.get_logger().error("it failed", task="t-1", exc_info=error)


def test_an_exception_is_told_with_its_cause_and_without_any_variable(stderr: io.StringIO) -> None:
    fail("s3cr3t")
    said = stderr.getvalue()
    for text in (
        "it failed",
        "t-1",
        "LookupError",
        "what went wrong",
        "ValueError",
        "is no number",
        "deeper",
    ):
        assert text in said
    assert "s3cr3t" not in said


def test_elsewhere_than_on_a_terminal_it_is_one_json_object_a_line(stderr: io.StringIO) -> None:
    structlog.get_logger().debug("too much")
    structlog.get_logger().info("task ended", task="t-1", code=3)
    fail("s3cr3t")
    lines = stderr.getvalue().splitlines()
    if stderr.isatty():
        assert "task ended" in lines[0]
        return
    assert len(lines) == 2
    first = json.loads(lines[0])
    assert (first["event"], first["level"], first["task"], first["code"]) == ("task ended", "info", "t-1", 3)
    assert first["timestamp"].endswith("Z")
    assert json.loads(lines[1])["exception"][0]["exc_type"] == "LookupError"
