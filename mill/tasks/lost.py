"""What is shown of a task whose node was lost. Pure; whoever shows records of a cluster calls it."""

import attrs

from mill.model import Reason, Record, Status, Time


def as_lost(record: Record, at: Time) -> Record:
    """*record*, its owner's last word, as a verdict leaves it that was heard of *at* that time: what became of it in truth stands beside."""
    if record.reason is Reason.NODE_LOST:
        return record
    message = f"its node {record.node} was lost"
    if record.status.terminal:
        end = f"{record.status}, {record.reason}" + (f": {record.message}" if record.message else "")
        message = f"{message}; that node has told since how it ended there: {end}"
    return attrs.evolve(
        record,
        status=Status.FAILED,
        reason=Reason.NODE_LOST,
        detail=None,
        message=message,
        pull=None,
        times=attrs.evolve(record.times, finished=at),
    )
