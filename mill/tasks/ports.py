"""What the tasks need of the world, as protocols: a runtime, a log store, records, a clock. No implementation of any.

`containerd.runtime`, `logs.store` and `mill.store` fit them; the tests bring fakes. The daemon plugs them in.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import attrs

from mill.model import Exit, PullProgress, Record, Spec, Stats, Task, Time, Usage
from mill.tasks.filter import Filter, Page, Position
from mill.tasks.journal import Event
from mill.tasks.marks import Marks
from mill.tasks.states import Toll


class Clock(Protocol):
    """The three clocks of a node."""

    @property
    def boot_id(self) -> str:
        """Names this boot of the machine."""

    def now(self) -> Time:
        """Wall clock, for people."""

    def boottime(self) -> float:
        """Seconds since boot, sleep included; for deadlines."""


class Records(Protocol):
    """Durable rows; a write returns after its commit."""

    async def insert(self, task: Task) -> None:
        """A new task; `Conflict` when its id is known already, `NoSpace` when the disk is full."""

    async def put(self, task: Task) -> None:
        """The task as it stands now."""

    async def amend(self, task: Task) -> None:
        """What became known of a task that has ended, unless its row is gone; it shares the next commit that there is."""

    async def get(self, task_id: str) -> Task | None: ...

    async def keyed(self, key: str, now: float) -> Record | None:
        """The record of the task that the key of that hash made, also where it is forgotten, unless the key is as well."""

    async def live(self) -> list[Task]:
        """Every task of this node that has not ended and can be read, oldest first."""

    async def ids(self, *, live: bool = False) -> set[str]:
        """Every id that is known; *live*: of every task that has not ended, also of those that cannot be read."""

    async def known(self, among: Collection[str]) -> set[str]:
        """Those of the ids *among* that there is a row of."""

    async def page(self, wanted: Filter, after: Position | None, limit: int) -> Page:
        """Up to *limit* records, newest first, that come after (created, id) *after*."""

    async def longest_ended(self, after: tuple[float, str] | None, limit: int) -> list[tuple[float, str]]:
        """(time of its end, id) of up to *limit* tasks that have ended, the longest-ended first, behind *after*."""

    async def expired(self, ended_before: float, limit: int, *, boot_id: str, at_s: float) -> list[str]:
        """Tasks that ended in this boot before that point of its clock, or in an earlier one before that time.

        A point of this boot's clock that is not before its beginning lies behind every earlier boot.
        """

    async def delete(self, task_id: str) -> None:
        """No such row any more."""


class Others(Protocol):
    """The tasks of other nodes, as far as they are known here."""

    def live(self) -> Iterable[Record]:
        """Those that have not ended, with what is only shown."""

    def shown(self, record: Record) -> Record:
        """A stored record with what is only shown."""

    async def wait_change(self) -> None:
        """Until something else is known of any of them."""


class EventLog(Protocol):
    """The journal of state changes, numbered from 1 in the order of their commits."""

    @property
    def epoch(self) -> str:
        """Names the life of the journal: in another one the same numbers mean something else."""

    @property
    def head(self) -> int:
        """The last number that may be told."""

    async def events(self, after: int, upto: int, limit: int) -> list[Event]:
        """Up to *limit* of ``after < seq <= upto``, in their order; what is no longer kept is left out."""

    async def wait_event(self, after: int) -> None:
        """Until `head` is behind *after*."""


class Pipes(Protocol):
    """FIFOs that the container writes to."""

    @property
    def stdout(self) -> Path: ...

    @property
    def stderr(self) -> Path: ...

    async def wait_held(self) -> None:
        """Until what is written to them outlives milld: to be awaited before the first instruction of a task's program."""


OpenPipes = Callable[[], Awaitable[Pipes]]
"""Makes the task's pipes, or gives those that are there: a start may call it while it does other things."""


class Logs(Protocol):
    async def open(self, task_id: str) -> Pipes:
        """Make the FIFOs and start (or, on adoption, go on) taking what is written; `OSError` if the disk refuses."""

    async def drain(self, task_id: str) -> None:
        """Take what is left and close; idempotent. `NoSpace` while the disk takes no more: nothing is lost, call again."""


class Room(Protocol):
    """What the host has left for another task."""

    def check(self, starting: int) -> None:
        """`NoSpace` or `Unavailable` when it would have no chance, with so many that are being started; instant."""


class Container(Protocol):
    """A container whose PID 1 has been started; it may have ended since."""

    @property
    def started(self) -> Time: ...

    @property
    def began_s(self) -> float:
        """The same moment on the boot-time clock, which no jump of the wall clock moves; of one that has ended, a later one."""

    @property
    def ip(self) -> str | None: ...

    @property
    def stop_signal(self) -> int:
        """The first signal of a kill that names none: the spec's, else the image's, else SIGTERM."""

    async def wait(self) -> Exit:
        """Its end, however long it takes and through restarts of the runtime; `Interrupted` if it cannot be known."""

    async def kill(self, signal: int) -> bool | None:
        """Send *signal* to PID 1; False if it had ended already, None if it has ended, perhaps of this very signal."""

    async def toll(self) -> Toll:
        """What its cgroup tells; asked between the end and `delete`."""

    async def delete(self) -> None:
        """Remove it from the runtime, killing what still runs, so that its pipes have no writer any more; idempotent."""


@attrs.frozen
class Attachment:
    """A task's place in the network: its address, its namespace as the OCI runtime finds it, who answers its names."""

    ip: str
    namespace: str
    nameserver: str | None = None


class Mesh(Protocol):
    """The node's network. All but `attach` is instant."""

    def reserve(self, task_id: str, spec: Spec) -> Spec:
        """Room for a task to be, its published ports taken and named. `NoCapacity`, `Unavailable`, `Conflict`, `FieldError`."""

    def rename(self, task_id: str, other: str) -> None:
        """The task that is to be gets another id."""

    def adopt(self, task_id: str, spec: Spec) -> None:
        """A task that is there already holds what it holds."""

    def release(self, task_id: str) -> None:
        """The task is over and cleaned up after, or will not be."""

    async def attach(self, task_id: str) -> Attachment:
        """A namespace with an address for the task; `StartError`."""

    def entered(self, task_id: str) -> None:
        """The task's container is in its namespace, which from now on lives as long as that."""

    def ip_of(self, task_id: str) -> str | None:
        """The task's address, also after a restart."""

    def detach(self, task_id: str) -> None:
        """The task's container and files are gone; idempotent."""


class Runtime(Protocol):
    async def find_image(self, spec: Spec) -> Any | None:
        """The image if it is here, so that a start needs no pull; `Unavailable` when that cannot be told."""

    def ready_id(self, spec: Spec) -> str | None:
        """An id for which part of the work is done already, if there is one; instant. Whether it is free is not known here."""

    async def pull(self, spec: Spec, on_progress: Callable[[PullProgress], None], marks: Marks) -> Any:
        """The image, ready to start from; `PullError`."""

    async def start(self, task: Task, image: Any, open_pipes: OpenPipes, marks: Marks) -> Container:
        """A started container; `StartError`, and then nothing of it is left that `clean_up` would not remove."""

    async def adopt(self, task: Task) -> Container | None:
        """The task's container if its PID 1 was started, running or ended.

        None if it certainly never was (nothing of it is left then); `Interrupted` if that cannot be known any more.
        """

    async def clean_up(self, task_id: str) -> str | None:
        """Remove whatever is left of the task; idempotent, patient while the runtime is away. Why something stays, or None."""

    async def sweep(self, known: Callable[[str], bool]) -> list[str]:
        """Remove what this node owns and no record knows; returns the ids."""

    def usage(self) -> Mapping[str, Usage]:
        """CPU and memory of every running task, as last sampled; instant."""

    def stats(self, task_id: str) -> Stats | None:
        """One task's figures now, or None if it does not run; instant."""
