"""What a core has to do later, by time. Pure: whoever owns it says what time it is."""

import heapq
from collections.abc import Callable
from typing import Any

Action = Callable[..., None]


class Timers:
    """Actions in order of their time, and among equal times of their making. None is ever cancelled: each looks whether it still applies."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action, tuple[Any, ...]]] = []
        self._made = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_at(self) -> float:
        """When the first is due; infinite if there is none."""
        return self._heap[0][0] if self._heap else float("inf")

    def at(self, when: float, action: Action, *args: Any) -> None:
        """Let *action* be called with *args* once it is *when*."""
        self._made += 1
        heapq.heappush(self._heap, (when, self._made, action, args))

    def run(self, now: float) -> None:
        """Call what is due; what these put off until later than *now* stays."""
        while self._heap and self._heap[0][0] <= now:
            _, _, action, args = heapq.heappop(self._heap)
            action(*args)
