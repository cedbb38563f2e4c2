"""What the API needs of the node, as protocols; and who may ask. The daemon plugs the real ones in, tests bring fakes.

No route touches anything else: `Core` is all that the API knows of the daemon.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import attrs

from mill.config import SURE_S
from mill.logs.frames import LogChunk, LogRequest
from mill.model import (
    Draft,
    Duration,
    Image,
    IssuedToken,
    JoinCommand,
    Keyed,
    NodeStatus,
    NodeView,
    PullPolicy,
    PullProgress,
    Record,
    RotatedSecret,
    SpawnRequest,
    Stats,
    Template,
    TokenRequest,
    TokenView,
    Usage,
)
from mill.tasks.filter import Filter, Page, Position
from mill.tasks.journal import Event
from mill.tasks.orders import Order, Plan, Wanted


class TaskService(Protocol):
    """As `tasks.service.Tasks`."""

    async def spawn(
        self, request: SpawnRequest, templates: Mapping[str, Draft], key: Keyed | None = None
    ) -> Record: ...

    async def get(self, task_id: str) -> Record: ...

    async def wait(self, task_id: str, condition: str, timeout_s: float) -> Record: ...

    def usage(self) -> Mapping[str, Usage]: ...

    def live(self, wanted: Filter) -> list[Record]: ...

    async def page(self, wanted: Filter, after: Position | None, limit: int) -> Page: ...

    async def kill(self, task_id: str, by: str, *, signal: int | None, grace: Duration | None) -> Record: ...

    def stats(self, task_id: str) -> Stats | None: ...


class LogService(Protocol):
    """As `logs.store.Logs`."""

    def read(self, task_id: str, request: LogRequest) -> AsyncGenerator[LogChunk, None]: ...


class EventBatch(Protocol):
    """As `tasks.events.Batch`."""

    @property
    def id(self) -> str: ...

    @property
    def events(self) -> Sequence[tuple[str, Event]]: ...

    @property
    def missed(self) -> int: ...


class EventSubscription(Protocol):
    """As `tasks.events.Subscription`."""

    @property
    def id(self) -> str: ...

    @property
    def lost(self) -> bool: ...

    async def next_batch(self) -> EventBatch: ...


class EventService(Protocol):
    """As `tasks.events.Events`."""

    def subscribe(self, after: str | None, wanted: Filter) -> EventSubscription: ...


class ImageService(Protocol):
    """As `containerd.images.Images`."""

    async def load(self, archive: Path, *, name: str | None) -> list[Image]: ...

    async def list(self) -> list[Image]: ...

    def pull(self, ref: str, policy: PullPolicy) -> AsyncGenerator[PullProgress | Image, None]: ...

    async def remove(self, ref: str) -> None: ...


class TemplateService(Protocol):
    """As `daemon.templates.Templates`."""

    def all(self) -> Mapping[str, Template]: ...

    def drafts(self) -> Mapping[str, Draft]: ...

    async def put(self, template: Template) -> None:
        """`Conflict` when the node's file defines that name."""

    async def delete(self, name: str) -> None:
        """`NotFound`, or `Conflict` as above."""


class NodeService(Protocol):
    """As `daemon.nodes.Nodes`."""

    def all(self) -> list[NodeView]: ...

    def find(self, node: str) -> NodeView:
        """By its id, with hyphens or without, or its name; `NotFound`, and `Conflict` for a name that several have."""

    async def drain(self, node: str) -> NodeView:
        """`NotFound` when it is neither an id nor a name of a node."""

    async def undrain(self, node: str) -> NodeView:
        """As above."""

    async def forget(self, node: str) -> NodeView:
        """`NotFound`, or `Conflict` while it answers."""

    async def rotate_secret(self) -> RotatedSecret:
        """All nodes have a new secret; `Conflict` and `Unavailable` say why not, and what to do."""

    def join_command(self) -> JoinCommand:
        """`Conflict` where nobody can join."""


class TokenService(Protocol):
    """As `security.tokens.Tokens`."""

    def who(self, token: str) -> TokenView | None:
        """`Unauthorized` for one that has expired."""

    def all(self) -> list[TokenView]: ...

    async def create(self, request: TokenRequest) -> IssuedToken: ...

    async def delete(self, token_id: str) -> None:
        """`NotFound`, or `Conflict` for the admin's."""


@attrs.frozen
class Elsewhere:
    """A task that another node owns: that node's id, and the record as far as it is known here. *doubted*: it is not sure that
    that node is there.
    """

    node: str
    record: Record | None
    doubted: bool = False


class PeerAnswer(Protocol):
    """As `daemon.peers.Answer`."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Whose names may be asked for in lower case."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; `Unavailable` where it breaks off."""

    async def read(self) -> bytes: ...


class Fleet(Protocol):
    """As `daemon.fleet.Fleet`: the other nodes, for a node that answers for all."""

    @property
    def partial(self) -> bool:
        """Whether others may know of ends that this node does not."""

    async def elsewhere(self, task_id: str) -> Elsewhere | None:
        """Where the task is; None: here, or nowhere that anybody knows."""

    async def usage(self, records: Collection[Record]) -> Mapping[str, Usage]:
        """What those of them use now that run elsewhere; as far as their nodes say so at once."""

    def open(
        self,
        node: str,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        content: bytes | AsyncIterator[bytes] = b"",
        timeout_s: float | None,
    ) -> AbstractAsyncContextManager[PeerAnswer]:
        """Ask *node*; *timeout_s* up to the head of the answer. `Unavailable` in one line that names it, and since when it is silent."""


class Ends(Protocol):
    """As `daemon.witnesses.Witnesses`."""

    async def in_doubt(self, tasks: Collection[str], within_s: float = SURE_S) -> Collection[str]:
        """Those of *tasks* (ids) of whose end too few nodes know, so that it may turn out as ``node_lost`` after all; *within_s* at
        most is waited for that to change.
        """


class Placement(Protocol):
    """As `daemon.placing.Placing`: which node a task goes to, and what other nodes ask about that."""

    async def spawn(
        self, request: SpawnRequest, templates: Mapping[str, Draft], key: Keyed | None = None
    ) -> Record:
        """As `TaskService.spawn`, wherever the task then is."""

    async def plan(self, wanted: Wanted) -> Plan:
        """As leader. `FieldError`, `NoCapacity`; `Unavailable` for a node that does not lead."""

    async def admit(self, order: Order, term: int, leader: str) -> Record:
        """As owner, as `TaskService.spawn`. `Conflict` for the order of a leader that has been overruled."""

    async def keyed(self, key: Keyed) -> Plan:
        """What is known of a key here: a task, that this node is busy with it, or nothing."""

    def release(self, key: str, request: str) -> None: ...

    def withdraw(self, task_id: str) -> None: ...


@attrs.frozen
class Answered:
    """A request that got an answer: *route* as the OpenAPI document writes it, or ``other`` where there is none.

    `seconds` up to the beginning of the answer; None for one that was asked to wait for something.
    """

    route: str
    method: str
    status: int
    seconds: float | None


@attrs.frozen
class Exposition:
    """Metrics in the format of `content_type`."""

    content_type: str
    body: bytes


@attrs.frozen
class Core:
    """The node, as its API sees it."""

    tasks: TaskService
    logs: LogService
    events: EventService
    images: ImageService
    templates: TemplateService
    nodes: NodeService
    tokens: TokenService
    status: Callable[[], NodeStatus]
    healthy: Callable[[], bool]
    metrics: Callable[[str], Awaitable[Exposition]]
    """What Prometheus scrapes, in the format that an Accept header asks for."""
    on_answer: Callable[[Answered], None]
    now: Callable[[], float]
    uploads: Path
    version: str
    fleet: Fleet | None = None
    """None: this node answers for itself alone."""
    placement: Placement | None = None
    """None: this node's tasks are all there are."""
    ends: Ends | None = None
    """None: what this node says of an end is final."""
