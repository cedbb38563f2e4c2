"""Moments on a task's way that are no change of its state: noted as they pass, kept with the next one's commit. Pure.

The lifecycle hands one to the runtime and both write into it; `table` lays it over the record.
"""

import attrs

from mill.model import Time, Times


@attrs.define
class Marks:
    """As the fields of `Times` of the same names."""

    pull_began: Time | None = None
    unpack_began: Time | None = None
    fetched: Time | None = None
    queued: Time | None = None
    start_began: Time | None = None
    snapshot_made: Time | None = None
    container_made: Time | None = None
    launched: Time | None = None

    def onto(self, times: Times) -> Times:
        """*times* with what was noted and is not known there: a task that is resumed keeps what it had."""
        noted = attrs.asdict(self)
        fresh = {name: at for name, at in noted.items() if at is not None and getattr(times, name) is None}
        return attrs.evolve(times, **fresh) if fresh else times
