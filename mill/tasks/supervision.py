"""What stands over each life: what must follow it is done, and a bug of ours fails one task, not milld. The service starts it."""

from contextlib import suppress

import attrs
import structlog
import trio

from mill.config import CLEANUP_RETRY_S
from mill.errors import Interrupted, MillError
from mill.tasks.ledger import Ledger
from mill.tasks.lifecycle import World, run_task
from mill.tasks.states import cleaned, faulted, to_end
from mill.tasks.table import LiveTask, Table, Unrecorded

log = structlog.get_logger()


@attrs.frozen
class Supervisor:
    """Of all lives of one node."""

    _world: World
    _ledger: Ledger
    _table: Table

    async def supervise(self, live: LiveTask, adopted: bool) -> None:  # noqa: FBT001 -- start_soon has no keywords
        """One life and what must follow it."""
        try:
            await self._live(live, adopted=adopted)
        except Unrecorded:
            await self._clean_up(live.id)
            return
        finally:
            live.gone.set()
        self._ledger.release(live.id)
        self._table.drop(live.id)
        await self._clean_up(live.id)
        self._world.mesh.release(live.id)
        await self.note_cleaned(live)

    async def _live(self, live: LiveTask, *, adopted: bool) -> None:
        """A bug of ours fails that task, not milld."""
        try:
            await run_task(live, self._world, adopted=adopted)
        except Unrecorded:
            raise
        except Exception:  # the top supervisor of a life
            await live.stored()
            log.exception("internal error while running a task; failing it", task=live.id)
            await self._fail(live)

    async def note_cleaned(self, live: LiveTask) -> None:
        """Say so in the record; worth no second try."""
        now = self._world.clock.now()
        try:
            await live.amend(lambda record: cleaned(record, now))
        except MillError as error:
            log.warning("cannot store that a task was cleaned up", task=live.id, why=str(error))

    async def _fail(self, live: LiveTask) -> None:
        """The end after a bug of ours; nothing of the task may run on, and its log ends too."""
        now = self._world.clock.now()
        end = faulted(Interrupted("an internal error of milld; its log has the details"), now)
        if not live.task.record.status.terminal:
            await live.advance(lambda record: to_end(record, end, now))
        await self._clean_up(live.id)
        with suppress(OSError, MillError):
            await self._world.logs.drain(live.id)

    async def _clean_up(self, task_id: str) -> None:
        """Patient: what is left of an ended task harms nobody, least of all milld."""
        complained = False
        while True:
            try:
                why = await self._world.runtime.clean_up(task_id)
            except (MillError, OSError) as error:
                why = str(error)
            if why is None:
                return
            if not complained:
                log.warning("cannot clean up after a task yet; trying on", task=task_id, why=why)
                complained = True
            await trio.sleep(CLEANUP_RETRY_S)
