"""Moments on a task's way that are no change of its state: noted as they pass, kept with the next one's commit. Pure.

The lifecycle hands one to the runtime and both write into it; `table` lays it over the record.
"""

import attrs

from mill.model import Time, Times


@attrs.define
class Marks:
    """Moments by the names that `Times` has for them."""

    noted: dict[str, Time] = attrs.field(factory=dict)

    def note(self, **moments: Time | None) -> None:
        """What has come to pass, and when; TypeError if `Times` knows no such moment."""
        unknown = moments.keys() - attrs.fields_dict(Times).keys()
        if unknown:
            raise TypeError(f"no moment of a task: {', '.join(sorted(unknown))}")
        self.noted |= {name: at for name, at in moments.items() if at is not None}

    def onto(self, times: Times) -> Times:
        """*times* with what was noted and is not known there: a task that is resumed keeps what it had."""
        fresh = {name: at for name, at in self.noted.items() if getattr(times, name) is None}
        return attrs.evolve(times, **fresh) if fresh else times  # type: ignore[arg-type]  # moments alone
