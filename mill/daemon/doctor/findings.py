"""What doctor has to say: findings of three levels, and what they amount to. Pure; every check makes them, `__main__` prints them."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import attrs


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Tasks run, but not as well or as safely as they could."""
    PROBLEM = "problem"
    """It keeps milld from starting, or a task from running."""


@attrs.frozen
class Finding:
    """One line about one thing. `advice` says what to do, a sentence or a command each; empty where nothing is to be done."""

    check: str
    level: Level
    found: str
    advice: tuple[str, ...] = ()


def ok(check: str, found: str) -> Finding:
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, *advice: str) -> Finding:
    return Finding(check, Level.WARNING, found, advice)


def problem(check: str, found: str, *advice: str) -> Finding:
    return Finding(check, Level.PROBLEM, found, advice)


def report(findings: Iterable[Finding]) -> dict[str, Any]:
    """As JSON: ``{"problems": 1, "warnings": 0, "findings": [{"check", "level", "found", "advice"}, ...]}``."""
    listed = [attrs.asdict(finding) for finding in findings]
    counts = {level: sum(one["level"] is level for one in listed) for level in Level}
    return {"problems": counts[Level.PROBLEM], "warnings": counts[Level.WARNING], "findings": listed}
