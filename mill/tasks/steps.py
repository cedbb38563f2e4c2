"""The states between two that were heard of: another node's task may have gone through several before word of the last one came. Pure.

The journal of a node tells every state of every task; what was passed over on the way is told from the times that the last record has.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mill.model import Status

_ORDER = (Status.PULLING, Status.STARTING, Status.RUNNING)
_BEGAN = {Status.PULLING: "pull_began", Status.STARTING: "pulled", Status.RUNNING: "started"}
"""The time whose being known says that a task was in that state."""
_LATER = {
    Status.PULLING: {"pulled", "started", "launched", "finished", "cleaned"},
    Status.STARTING: {"started", "launched", "finished", "cleaned"},
    Status.RUNNING: {"finished", "cleaned"},
}
_NOT_YET: Mapping[str, Any] = {
    "reason": None,
    "detail": None,
    "message": None,
    "exit_code": None,
    "signal": None,
    "oom_kills": 0,
    "peak_memory": None,
    "pull": None,
}


def passed_over(record: Mapping[str, Any], before: str | None) -> Iterator[dict[str, Any]]:
    """*record* (JSON) as it was in each state after *before* (None: it was unknown) and before its own."""
    known = {str(status): place for place, status in enumerate(_ORDER)}
    first = 0 if before is None else known.get(before, len(_ORDER)) + 1
    last = known.get(record["status"], len(_ORDER))
    times = record["times"]
    for status in _ORDER[first:last]:
        if times.get(_BEGAN[status]) is not None:
            then = {name: None if name in _LATER[status] else at for name, at in times.items()}
            yield {**record, **_NOT_YET, "status": str(status), "times": then}
