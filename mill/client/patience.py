"""How long a call that may be repeated bears a milld that cannot be reached (it may be restarting). Called by `Client` and
`Resuming`.

Sleeps by anyio, which runs under trio and asyncio alike.
"""

from mill.client.connection import ConnectionBroke
from mill.errors import ConnectionFailed, MillError, ProblemError

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
STEADY_S = 5.0
"""A connection that broke after so long was a good one: patience begins anew."""
_PASSING = frozenset({502, 503, 504})


class Patience:
    """`begin` before each try; after it `reset`, or `pause`, which raises the failure once *limit_s* went by without success."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._began: float = 0.0
        self._failing_since: float | None = None
        self._pause_s = FIRST_PAUSE_S

    def begin(self) -> None:
        self._began = _loop_time()

    def reset(self) -> None:
        self._failing_since = None
        self._pause_s = FIRST_PAUSE_S

    async def pause(self, error: MillError) -> None:
        """Sleeps a little longer than last time, or raises *error* when it is lasting or of no passing kind."""
        import anyio  # noqa: PLC0415 -- see _loop_time

        if not passing(error):
            raise error
        now = _loop_time()
        if isinstance(error, ConnectionBroke) and now - self._began >= STEADY_S:
            self.reset()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since + self._pause_s > self._limit_s:
            raise error
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        await anyio.sleep(pause_s)


def passing(error: MillError) -> bool:
    """Whether the same call may succeed a little later."""
    if isinstance(error, ProblemError):
        return error.http_status in _PASSING
    return isinstance(error, ConnectionFailed)


def _loop_time() -> float:
    """Of the event loop's clock."""
    import anyio  # noqa: PLC0415 -- a tenth of what `import mill.client` costs; httpx too loads it at the first call only

    return anyio.current_time()
