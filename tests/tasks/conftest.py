"""Every async test here runs on a clock that jumps: waiting takes no time, and all is deterministic."""

from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.tasks.scene import Scene


def run_at_once(main: Any, **options: Any) -> Any:
    """As `trio.run`, on a mock clock."""
    return trio.run(main, **{**options, "clock": MockClock(autojump_threshold=0)})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.trio(run=run_at_once), append=False)


@pytest.fixture
def scene() -> Scene:
    return Scene()
