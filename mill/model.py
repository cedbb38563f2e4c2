"""What a task is: its spec, its record, its ends. A leaf of frozen values without behaviour that needs a clock or a socket.

Everybody speaks these values: the store keeps them, the API shows them, the client returns them. The fields and their
meaning are fixed by the design's section 2. Times are unix seconds (`Time`), shown in JSON as RFC 3339 to the millisecond.

Over 400 lines because it is the one vocabulary that all packages share.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NewType

import attrs

from mill import checks
from mill.units import MIB

Time = NewType("Time", float)
"""Unix seconds, UTC. In JSON: ``2026-01-02T03:04:05.678Z``."""

Size = NewType("Size", int)
"""Bytes. From people also ``512M`` or ``2G``."""

Duration = NewType("Duration", float)
"""Seconds. From people also ``90s`` or ``1h30m``."""


@attrs.frozen
class Kept:
    """A value that is kept in SQLite or goes between nodes, where a newer Mill may say more of it than this one knows."""

    extra: Mapping[str, object] = attrs.field(factory=dict, kw_only=True, repr=False, hash=False)
    """Fields of a newer Mill: kept and passed on. Nobody else may send any."""


class Status(StrEnum):
    PULLING = "pulling"
    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        return self in {Status.STOPPED, Status.FAILED}


class Reason(StrEnum):
    EXIT = "exit"
    SIGNAL = "signal"
    KILLED = "killed"
    OOM = "oom"
    TIMEOUT = "timeout"
    PULL_ERROR = "pull_error"
    START_ERROR = "start_error"
    INTERRUPTED = "interrupted"
    NODE_LOST = "node_lost"


class Network(StrEnum):
    MESH = "mesh"
    HOST = "host"
    NONE = "none"


class PullPolicy(StrEnum):
    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


class MountType(StrEnum):
    BIND = "bind"
    TMPFS = "tmpfs"


@attrs.frozen
class Mount(Kept):
    """One mount of a task. A bind needs `source`, which the node's configuration must allow; `size` is a tmpfs' limit."""

    target: str = attrs.field(validator=checks.check_target)
    type: MountType = MountType.BIND
    source: str | None = attrs.field(default=None, validator=checks.check_path)
    read_only: bool = False
    size: Size | None = None

    def __attrs_post_init__(self) -> None:
        checks.check_mount(self)


@attrs.frozen
class Publish(Kept):
    """A port of a task that the node's own address leads to too. `host` None: a free one, which the record then names."""

    port: int = attrs.field(validator=checks.check_task_port)
    host: int | None = attrs.field(default=None, validator=checks.check_port)


DEFAULT_CPU = 0.25
DEFAULT_MEMORY_BYTES = 256 * MIB
DEFAULT_TIMEOUT_S = 3600.0
DEFAULT_PULL_TIMEOUT_S = 600.0
DEFAULT_GRACE_S = 10.0
DEFAULT_PORT = 8080


@attrs.frozen
class Spec(Kept):
    """What to run, every default filled in. `env` values are None wherever the spec has left its owner."""

    image: str
    name: str
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: Mapping[str, str | None] = attrs.field(factory=dict)
    cpu: float = DEFAULT_CPU
    memory: Size = Size(DEFAULT_MEMORY_BYTES)
    timeout: Duration = Duration(DEFAULT_TIMEOUT_S)
    pull_timeout: Duration = Duration(DEFAULT_PULL_TIMEOUT_S)
    port: int = DEFAULT_PORT
    labels: Mapping[str, str] = attrs.field(factory=dict)
    user: str | None = None
    workdir: str | None = None
    network: Network = Network.MESH
    publish: tuple[Publish, ...] = ()
    stop_signal: str | None = None
    grace: Duration = Duration(DEFAULT_GRACE_S)
    pull: PullPolicy = PullPolicy.MISSING
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    init: bool = False

    def without_env_values(self) -> "Spec":
        """As it may be listed, logged or replicated: the names of the environment only."""
        return attrs.evolve(self, env=dict.fromkeys(self.env))


@attrs.frozen
class Draft(Kept):
    """What a person wrote of a spec: a template, or the inline part of a spawn. None means not said."""

    image: str | None = attrs.field(default=None, validator=checks.check_image)
    name: str | None = attrs.field(default=None, validator=checks.check_name)
    command: tuple[str, ...] | None = attrs.field(default=None, validator=checks.check_command)
    args: tuple[str, ...] | None = attrs.field(default=None, validator=checks.check_strings)
    env: Mapping[str, str] | None = attrs.field(default=None, validator=checks.check_env)
    cpu: float | None = attrs.field(default=None, validator=checks.check_cpu)
    memory: Size | None = attrs.field(default=None, validator=checks.check_memory)
    timeout: Duration | None = attrs.field(default=None, validator=checks.check_timeout)
    pull_timeout: Duration | None = attrs.field(default=None, validator=checks.check_timeout)
    port: int | None = attrs.field(default=None, validator=checks.check_port)
    labels: Mapping[str, str] | None = attrs.field(default=None, validator=checks.check_labels)
    user: str | None = attrs.field(default=None, validator=checks.check_user)
    workdir: str | None = attrs.field(default=None, validator=checks.check_path)
    network: Network | None = None
    publish: tuple[Publish, ...] | None = attrs.field(default=None, validator=checks.check_publish)
    stop_signal: str | None = attrs.field(default=None, validator=checks.check_stop_signal)
    grace: Duration | None = attrs.field(default=None, validator=checks.check_grace)
    pull: PullPolicy | None = None
    mounts: tuple[Mount, ...] | None = None
    read_only: bool | None = None
    init: bool | None = None

    def over(self, base: "Draft") -> "Draft":
        """Laid over *base*: what this draft says wins; `env`, `labels` and `extra` are merged key by key."""
        said = self.said()
        for key in ("env", "labels", "extra"):
            below = getattr(base, key)
            if below is not None:
                said[key] = {**below, **said.get(key, {})}
        return attrs.evolve(base, **said)

    def said(self) -> dict[str, Any]:
        """Its fields by name, without those that are not said."""
        said = {k: v for k, v in attrs.asdict(self, recurse=False).items() if v is not None}
        said["extra"] = {k: v for k, v in self.extra.items() if v is not None}
        return said


@attrs.frozen
class SpawnRequest(Draft):
    """The body of a spawn: a template's name in `task`, or an inline spec, or both (the inline part wins)."""

    task: str | None = None


class Scope(StrEnum):
    """What a token lets its holder do: look, start and end tasks too, or everything. Each covers those before it."""

    READ = "read"
    SPAWN = "spawn"
    ADMIN = "admin"

    def covers(self, other: "Scope") -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(other)


@attrs.frozen
class TokenRequest:
    """What is asked of a new token. `name` tells people whose it is (by default its id); without `expires` it is good for ever."""

    scope: Scope
    name: str | None = attrs.field(default=None, validator=checks.check_name)
    expires: Duration | None = attrs.field(default=None, validator=checks.check_timeout)


@attrs.frozen
class TokenView:
    """A token as everybody may see it: `id` is a part of its hash. `created` is None for the one in admin.token."""

    id: str
    name: str
    scope: Scope
    created: Time | None = None
    expires: Time | None = None


@attrs.frozen
class IssuedToken:
    """A new token; this once `token` itself is said, and kept nowhere."""

    token: str = attrs.field(repr=False)
    view: TokenView


@attrs.frozen
class Template:
    """A named draft. `source` is ``config`` (the node's file; read-only over the API) or ``api``."""

    name: str
    draft: Draft
    source: str = "api"


@attrs.frozen
class Times(Kept):
    """When a task came to each point of its life; None: not yet, not at all (an image that was there is not fetched), not known.

    In their order: `created` (asked for), `placed` (taken on by its node), `pull_began`, `unpack_began` (beside the fetching),
    `fetched`, `pulled` (ready to start from), `queued` (waits for its turn to start), `start_began`, `snapshot_made`,
    `container_made`, `started` (PID 1 was about to run), `launched` (it runs for certain), `finished` (PID 1's exit),
    `cleaned` (nothing of it is left on the node but record and log).
    """

    created: Time
    pulled: Time | None = None
    started: Time | None = None
    finished: Time | None = None
    placed: Time | None = None
    pull_began: Time | None = None
    unpack_began: Time | None = None
    fetched: Time | None = None
    queued: Time | None = None
    start_began: Time | None = None
    snapshot_made: Time | None = None
    container_made: Time | None = None
    launched: Time | None = None
    cleaned: Time | None = None


class LayerState(StrEnum):
    """Of one layer of a pull; EXISTS: nothing had to be done for it."""

    WAITING = "waiting"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    UNPACKING = "unpacking"
    DONE = "done"
    EXISTS = "exists"


@attrs.frozen
class LayerProgress(Kept):
    """One layer of a pull: `done` of its `total` bytes, as the registry keeps them, are here."""

    digest: str
    state: LayerState
    done: int
    total: int


@attrs.frozen
class PullProgress(Kept):
    """Bytes fetched of a pull that is under way; `total` is None and `layers` (bottom first) empty until the manifest is known."""

    done: int = 0
    total: int | None = None
    layers: tuple[LayerProgress, ...] = ()


@attrs.frozen
class PullRequest:
    """The body of a pull ahead of any task; as with `docker pull`, the registry is asked unless it says ``missing``."""

    image: str = attrs.field(validator=checks.check_image)
    pull: PullPolicy = attrs.field(default=PullPolicy.ALWAYS, validator=checks.check_pull_ahead)


@attrs.frozen
class Usage(Kept):
    """What a running task uses now: cores over the last second or so, bytes of memory (page cache that can go left out)."""

    cpu: float
    memory: int


@attrs.frozen
class Keyed(Kept):
    """What an Idempotency-Key made of a spawn (`tasks.keyed`): hashes of the key, and of the request that came with it."""

    key: str
    body: str


@attrs.frozen
class Record(Kept):
    """The public truth about one task. Only its owner raises `version`, by one at each change."""

    id: str
    spec: Spec
    status: Status
    node: str
    node_id: str
    address: str
    times: Times
    version: int = 1
    template: str | None = None
    ip: str | None = None
    reason: Reason | None = None
    detail: str | None = None
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    oom_kills: int = 0
    peak_memory: int | None = None
    pull: PullProgress | None = None
    usage: Usage | None = None
    keyed: Keyed | None = None
    unreachable: float | None = None
    """For how many seconds its node has not answered; None: it does, or the task has ended."""


@attrs.frozen
class Ended(Kept):
    """How a task ended, before or after it was published."""

    status: Status
    reason: Reason
    detail: str | None = None
    message: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    oom_kills: int = 0
    peak_memory: int | None = None
    finished: Time | None = None


@attrs.frozen
class Deadline(Kept):
    """A point of the boot-time clock: no wall clock jump and no restart of milld moves it; a reboot voids it."""

    boot_id: str
    at_s: float


@attrs.frozen
class Kill(Kept):
    """A wish to end a task: *signal* first (None: the task's stop signal), SIGKILL after *grace*."""

    by: str
    at: Time
    grace: Duration
    signal: int | None = None


@attrs.frozen
class Exit:
    """What the runtime reported of PID 1: containerd's exit status (128+n for signal n)."""

    code: int
    at: Time


@attrs.frozen
class Owned(Kept):
    """What only the owner keeps of a task, beside its record."""

    env: Mapping[str, str] = attrs.field(factory=dict)
    pull_deadline: Deadline | None = None
    deadline: Deadline | None = None
    kill: Kill | None = None
    ending: Ended | None = None
    ended: Deadline | None = None
    """When the ending was stored: how long ago that is, no jump of the wall clock can say."""


@attrs.frozen
class Task:
    """A row of the store: the public record and the owner's part."""

    record: Record
    owned: Owned = attrs.field(factory=Owned)


@attrs.frozen
class Stats:
    """One sample of a running task. `cpu` is in cores over the last second or so; the rest are totals or levels."""

    id: str
    cpu: float
    cpu_seconds: float
    memory: int
    memory_limit: int
    pids: int
    read_bytes: int
    written_bytes: int
    oom_kills: int
    peak_memory: int | None = None
    received_bytes: int | None = None
    sent_bytes: int | None = None


@attrs.frozen
class Image:
    """An image of this node's store. `digest` is the target's, `size` the bytes of its blobs."""

    ref: str
    digest: str
    size: int
    created: Time | None = None


@attrs.frozen
class Resources:
    """Cores and bytes: of a node in all, reserved, or free."""

    cpu: float
    memory: int


class NodeState(StrEnum):
    """Of a node in the eyes of the one that is asked."""

    ALIVE = "alive"
    DRAINING = "draining"
    """No new task comes; some are left."""
    DRAINED = "drained"
    """No new task comes, and none is left."""
    SUSPECT = "suspect"
    """It did not answer of late, and has some seconds to."""
    DOWN = "down"
    AWAY = "away"
    """It was stopped, and said that it comes back."""
    LEFT = "left"


@attrs.frozen
class NodeView:
    """A node as others see it. `address` is the IP that peers and tasks of the host's network are reached by."""

    id: str
    name: str
    address: str
    state: NodeState
    capacity: Resources
    reserved: Resources
    version: str
    started: Time
    epoch: int = 0
    """How often it was started as a member; 0 for a node that is alone."""
    leader: bool = False
    me: bool = True
    """Whether it is the one that was asked."""


@attrs.frozen
class JoinCommand:
    """How another node joins: the line to run there. `secret_file`, of the node that was asked, has to be copied there first."""

    command: str
    secret_file: str


@attrs.frozen
class RotatedSecret:
    """What became of a change of the cluster's secret: the key id of the one in use, which tells nothing of it, and who has it."""

    key_id: str
    nodes: tuple[str, ...]


@attrs.frozen
class NodeStatus:
    """The overview that ``/v1/status`` answers with."""

    node: str
    node_id: str
    version: str
    containerd: str
    runtime_ok: bool
    capacity: Resources
    reserved: Resources
    tasks: Mapping[str, int]
    started: Time
    state: NodeState = NodeState.ALIVE
    nodes: int = 1
    """Of the cluster, those that left apart."""
    leader: str | None = None
    """The name of the node that leads, where one is known; None for a node that is alone."""
    partial: bool = False
    """Other nodes may know of ends that this one has not heard of: it is with a minority, or has just come back."""
