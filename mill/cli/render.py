"""Records and other values as rows and lines for people. Pure: knows no terminal and no clock; `output` prints what it makes."""

import shlex
from collections.abc import Sequence

from mill.checks import signal_name
from mill.cli import ends
from mill.convert import format_time
from mill.model import (
    Image,
    Mount,
    NodeState,
    NodeStatus,
    NodeView,
    Publish,
    PullProgress,
    Record,
    Stats,
    Template,
    Times,
    TokenView,
)
from mill.units import format_duration, format_size

NOTHING = "-"

Rows = list[Sequence[str]]
Pairs = list[tuple[str, str]]

TASK_COLUMNS = ("NAME", "NODE", "STATUS", "CPU", "MEM", "ELAPSED")
STATS_COLUMNS = ("NAME", "CPU", "MEM", "LIMIT", "PEAK", "PIDS", "READ", "WRITTEN", "RECEIVED", "SENT")
IMAGE_COLUMNS = ("IMAGE", "DIGEST", "SIZE", "AGE")
NODE_COLUMNS = ("NAME", "STATE", "ROLE", "CPU", "MEMORY", "ADDRESS", "VERSION", "EPOCH", "ID")
TOKEN_COLUMNS = ("ID", "NAME", "SCOPE", "AGE", "EXPIRES")
TEMPLATE_COLUMNS = ("NAME", "IMAGE", "CPU", "MEMORY", "TIMEOUT", "SOURCE")

_SHORT_DIGEST = len("sha256:") + 12


def printable(text: object) -> str:
    """What others wrote, without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text))


def task_row(record: Record, now: float) -> tuple[str, ...]:
    usage = record.usage
    return (
        printable(record.id),
        printable(record.node),
        f"{ends.state(record)} {percent(record.pull)}{_silence(record)}".rstrip(),
        cores(usage.cpu) if usage else NOTHING,
        format_size(usage.memory) if usage else NOTHING,
        format_duration(elapsed_s(record.times, now)),
    )


def _silence(record: Record) -> str:
    return "" if record.unreachable is None else f"(unreachable {format_duration(record.unreachable)})"


def event_line(at: float, record: Record) -> str:
    """A change of state: when, which task, to which state, and why it ended."""
    why = f": {ends.why(record)}" if record.status.terminal else ""
    return f"{format_time(at)}  {printable(record.id)}  {printable(f'{record.status}{why}')}"


def cores(cpu: float) -> str:
    """One digit after the point, two where that would hide a busy task."""
    return f"{cpu:.1f}" if cpu >= 0.1 or cpu < 0.005 else f"{cpu:.2f}"  # noqa: PLR2004 -- 0.05 shows as 0.05, 0.001 as 0.0


def elapsed_s(times: Times, now: float) -> float:
    """How long it runs or ran; before that, how long it has been there."""
    began = times.started if times.started is not None else times.created
    return max(0.0, (times.finished if times.finished is not None else now) - began)


def stats_row(stats: Stats) -> tuple[str, ...]:
    return (
        printable(stats.id),
        cores(stats.cpu),
        format_size(stats.memory),
        format_size(stats.memory_limit),
        _size(stats.peak_memory),
        str(stats.pids),
        format_size(stats.read_bytes),
        format_size(stats.written_bytes),
        _size(stats.received_bytes),
        _size(stats.sent_bytes),
    )


def image_row(image: Image, now: float) -> tuple[str, ...]:
    age = NOTHING if image.created is None else format_duration(max(0.0, now - image.created))
    return printable(image.ref), printable(image.digest[:_SHORT_DIGEST]), format_size(image.size), age


def node_row(node: NodeView) -> tuple[str, ...]:
    return (
        printable(node.name),
        printable(node.state),
        "leader" if node.leader and node.epoch else NOTHING,
        f"{node.reserved.cpu:g}/{node.capacity.cpu:g}",
        f"{format_size(node.reserved.memory)}/{format_size(node.capacity.memory)}",
        printable(node.address),
        printable(node.version),
        str(node.epoch) if node.epoch else NOTHING,
        printable(node.id),
    )


def token_row(token: TokenView, now: float) -> tuple[str, ...]:
    return (
        printable(token.id),
        printable(token.name),
        printable(token.scope),
        NOTHING if token.created is None else format_duration(max(0.0, now - token.created)),
        expiry(token, now),
    )


def expiry(token: TokenView, now: float) -> str:
    if token.expires is None:
        return "never"
    return f"in {format_duration(token.expires - now)}" if token.expires > now else "expired"


def template_row(template: Template) -> tuple[str, ...]:
    draft = template.draft
    return (
        printable(template.name),
        printable(draft.image or NOTHING),
        NOTHING if draft.cpu is None else f"{draft.cpu:g}",
        _size(draft.memory),
        NOTHING if draft.timeout is None else format_duration(draft.timeout),
        printable(template.source),
    )


def record_pairs(record: Record, now: float) -> Pairs:
    """All of a record, one line each; what was not said or is not known is left out."""
    pairs = [
        ("id", record.id),
        ("status", str(record.status)),
        ("reason", ends.why(record) if record.status.terminal else ""),
        ("exit code", "" if record.exit_code is None else str(record.exit_code)),
        ("signal", "" if record.signal is None else f"{signal_name(record.signal)} ({record.signal})"),
        ("oom kills", str(record.oom_kills) if record.oom_kills else ""),
        ("pulled so far", _pull(record)),
        *_times(record.times, now),
        ("address", record.address),
        ("ip", record.ip or ""),
        ("node", f"{record.node} ({record.node_id})"),
        ("template", record.template or ""),
        *_use(record),
        *_spec_pairs(record),
    ]
    return [(key, printable(value)) for key, value in pairs if value]


def _times(times: Times, now: float) -> Pairs:
    began = times.started if times.started is not None else times.created
    ready = times.pulled if times.pulled is not None else times.created
    phases: list[tuple[str, float | None, float | None]] = [
        ("created", times.created, None),
        ("placed", times.placed, times.created),
        ("pull began", times.pull_began, times.created),
        ("unpack began", times.unpack_began, times.pull_began),
        ("fetched", times.fetched, times.pull_began),
        ("pulled", times.pulled, times.created),
        ("queued", times.queued, ready),
        ("start began", times.start_began, times.queued),
        ("snapshot made", times.snapshot_made, times.start_began),
        ("container made", times.container_made, times.snapshot_made),
        ("started", times.started, ready),
        ("launched", times.launched, times.started),
        ("finished", times.finished, began),
        ("cleaned", times.cleaned, times.finished),
    ]
    pairs = [
        (name, format_time(at) + ("" if since is None else f" (after {precise(at - since)})"))
        for name, at, since in phases
        if at is not None
    ]
    return [*pairs, ("elapsed", format_duration(elapsed_s(times, now)))]


def precise(seconds: float) -> str:
    """To the millisecond below a minute, where phases of a start differ."""
    return f"{max(0.0, seconds):.3f}s" if seconds < 60 else format_duration(seconds)  # noqa: PLR2004 -- a minute


def _use(record: Record) -> Pairs:
    usage, spec = record.usage, record.spec
    cpu, memory = f"{spec.cpu:g} cores", format_size(spec.memory)
    peak = "" if record.peak_memory is None else format_size(record.peak_memory)
    return [
        ("cpu", f"{cores(usage.cpu)} of {cpu}" if usage else cpu),
        ("memory", f"{format_size(usage.memory)} of {memory}" if usage else memory),
        ("peak memory", peak),
    ]


def _spec_pairs(record: Record) -> Pairs:
    spec = record.spec
    return [
        ("image", spec.image),
        ("command", words(spec.command or ())),
        ("args", words(spec.args or ())),
        ("env", " ".join(sorted(spec.env))),
        ("labels", " ".join(f"{key}={value}" for key, value in sorted(spec.labels.items()))),
        ("user", spec.user or ""),
        ("workdir", spec.workdir or ""),
        ("network", str(spec.network)),
        ("port", str(spec.port)),
        ("published", ", ".join(published(one) for one in spec.publish)),
        ("timeout", format_duration(spec.timeout)),
        ("pull timeout", format_duration(spec.pull_timeout)),
        ("pull", str(spec.pull)),
        ("stop signal", spec.stop_signal or ""),
        ("grace", format_duration(spec.grace)),
        ("mounts", ", ".join(mount(one) for one in spec.mounts)),
        ("read-only", "yes" if spec.read_only else ""),
        ("init", "yes" if spec.init else ""),
    ]


def published(one: Publish) -> str:
    """As ``-p`` has it: ``8000:8080``."""
    return f"{one.host}:{one.port}"


def words(args: Sequence[str]) -> str:
    """As a shell would take them back."""
    return shlex.join(args)


def mount(one: Mount) -> str:
    way = " (read-only)" if one.read_only else ""
    if one.source is not None:
        return f"{one.source} on {one.target}{way}"
    size = "" if one.size is None else f" of {format_size(one.size)}"
    return f"{one.type}{size} on {one.target}{way}"


def status_pairs(status: NodeStatus, now: float) -> Pairs:
    tasks = ", ".join(f"{count} {name}" for name, count in status.tasks.items() if count) or "none"
    drained = [] if status.state is NodeState.ALIVE else [("state", f"{status.state}: takes no new task")]
    return [
        ("node", f"{printable(status.node)} ({printable(status.node_id)})"),
        *drained,
        *_cluster(status),
        ("version", printable(status.version)),
        ("up", f"{format_duration(max(0.0, now - status.started))} (since {format_time(status.started)})"),
        ("containerd", f"{printable(status.containerd)}{'' if status.runtime_ok else ' (does not answer)'}"),
        ("cpu", f"{status.reserved.cpu:g} of {status.capacity.cpu:g} cores reserved"),
        (
            "memory",
            f"{format_size(status.reserved.memory)} of {format_size(status.capacity.memory)} reserved",
        ),
        ("tasks", printable(tasks)),
    ]


def _cluster(status: NodeStatus) -> Pairs:
    """Nothing, for a node that is alone."""
    if status.nodes == 1 and status.leader is None:
        return []
    leader = "nobody leads" if status.leader is None else f"{printable(status.leader)} leads"
    doubt = "; partial: not in touch with a majority" if status.partial else ""
    return [("cluster", f"{status.nodes} nodes, {leader}{doubt}")]


def percent(pull: PullProgress | None) -> str:
    """``45%`` of the bytes; nothing where nobody pulls or knows how many there are."""
    return f"{100 * pull.done // pull.total}%" if pull is not None and pull.total else ""


def _pull(record: Record) -> str:
    pull = record.pull
    if pull is None:
        return ""
    if not pull.total:
        return format_size(pull.done)
    return f"{percent(pull)} ({format_size(pull.done)} of {format_size(pull.total)})"


def _size(size_bytes: int | None) -> str:
    return NOTHING if size_bytes is None else format_size(size_bytes)
