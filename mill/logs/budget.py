"""How many bytes the log store holds, and may. Plain numbers, each written by one thread only, so that none needs a lock.

The capture thread counts what it adds, the event loop what it removes and what a look at the directory found; `retention`
keeps the sum within the limit.
"""

import attrs


@attrs.define(eq=False)
class Budget:
    """Bytes of segments and indexes. Without a limit (None) nothing is ever over it."""

    max_bytes: int | None = None
    found_bytes: int = 0
    taken_bytes: int = 0
    removed_bytes: int = 0
    dropped_bytes: int = 0
    """Of the removed ones, those that went before their time."""
    output_bytes: int = 0
    """Of those taken, what tasks wrote."""
    lost_bytes: int = 0
    """Output that could not be written down before its task's log had to end (a full disk)."""

    @property
    def used_bytes(self) -> int:
        return self.found_bytes + self.taken_bytes - self.removed_bytes

    @property
    def over_bytes(self) -> int:
        """How much has to go; none or less when all is well."""
        return 0 if self.max_bytes is None else self.used_bytes - self.max_bytes

    def found(self, size_bytes: int, *, taken_before: int) -> None:
        """A look at the whole directory, begun when so much had been taken: what came meanwhile may be in it or not."""
        self.found_bytes = size_bytes - taken_before + self.removed_bytes
