"""The containers that run here now, with a meter each: what `ps` and `stats` show. Belongs to `runtime`.

Reads kept descriptors only, so that a listing of hundreds costs milliseconds; asleep while nothing runs.
"""

from collections.abc import Mapping

import attrs
import trio

from mill.containerd.container import TaskContainer
from mill.model import Stats, Usage
from mill.tasks.ports import Clock


@attrs.define
class _Entry:
    container: TaskContainer
    memory_limit: int
    at: float
    cpu_seconds: float
    cores: float = 0.0


@attrs.define(eq=False)
class Running:
    """Containers by task id, and their CPU rate as last sampled."""

    _clock: Clock
    _entries: dict[str, _Entry] = attrs.field(factory=dict)
    _news: trio.Event = attrs.field(factory=trio.Event)

    def add(self, container: TaskContainer, memory_limit: int) -> None:
        seconds = container.meter.cpu_seconds()
        self._entries[container.id] = _Entry(container, memory_limit, self._clock.boottime(), seconds)
        self._news.set()

    def get(self, task_id: str) -> TaskContainer | None:
        entry = self._entries.get(task_id)
        return entry.container if entry else None

    def forget(self, task_id: str) -> None:
        """It has ended; its descriptors are closed."""
        entry = self._entries.pop(task_id, None)
        if entry is not None:
            entry.container.meter.close()

    def usage(self) -> Mapping[str, Usage]:
        """Cores and bytes of each."""
        return {
            task_id: Usage(round(entry.cores, 3), entry.container.meter.memory())
            for task_id, entry in self._entries.items()
        }

    def stats(self, task_id: str) -> Stats | None:
        entry = self._entries.get(task_id)
        if entry is None:
            return None
        levels, toll = entry.container.meter.levels(), entry.container.meter.toll()
        return Stats(
            id=task_id,
            cpu=round(entry.cores, 3),
            cpu_seconds=round(levels.cpu_seconds, 6),
            memory=levels.memory,
            memory_limit=entry.memory_limit,
            pids=levels.pids,
            read_bytes=levels.read_bytes,
            written_bytes=levels.written_bytes,
            oom_kills=toll.oom_kills,
            peak_memory=toll.peak_memory,
        )

    async def sample_all(self, interval_s: float) -> None:
        """Keep each CPU rate, for ever."""
        while True:
            if not self._entries:
                self._news = trio.Event()
                await self._news.wait()
            await trio.sleep(interval_s)
            for entry in self._entries.values():
                now, seconds = self._clock.boottime(), entry.container.meter.cpu_seconds()
                if seconds and now > entry.at:
                    entry.cores = max(0.0, seconds - entry.cpu_seconds) / (now - entry.at)
                    entry.at, entry.cpu_seconds = now, seconds

    def close(self) -> None:
        for task_id in list(self._entries):
            self.forget(task_id)
