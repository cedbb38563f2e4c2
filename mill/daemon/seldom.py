"""Lines that anybody can cause, at any rate and from any address that he makes up: the log gets them now and then. Used by `news`."""

import attrs
import structlog
import trio

AGAIN_S = 60.0
"""Between two lines that say the same."""
MOST_LINES = 30
"""In `AGAIN_S`, of one kind: a log must stay readable, and its disk must not fill."""

log = structlog.get_logger()


@attrs.define(eq=False)
class Seldom:
    """For lines of one kind."""

    _told: dict[tuple[str, ...], float] = attrs.field(factory=dict)

    def is_news(self, *what: str) -> bool:
        """Whether a line about *what* is to be said; if so, it counts as said."""
        now = trio.current_time()
        self._told = {told: at for told, at in self._told.items() if now - at < AGAIN_S}
        if what in self._told or len(self._told) >= MOST_LINES:
            return False
        self._told[what] = now
        if len(self._told) == MOST_LINES:
            log.warning("too many lines like the next one: the further ones are left out", for_s=AGAIN_S)
        return True
