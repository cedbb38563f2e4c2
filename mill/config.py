"""How one milld is set up: options, their three sources, and the templates of the file. A leaf.

Flags win over the environment (``MILL_<OPTION>``), the environment over the file (``--config``, TOML). Whatever is wrong
is a `SetupError` of one line that names the option, the variable, or the file with its line. Over 400 lines because every
option and every tunable has its one place here.
"""

import math
import os
import re
import ssl
import tomllib
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Any

import attrs

from mill import checks
from mill.convert import from_json
from mill.errors import FieldError, SetupError
from mill.model import Draft
from mill.units import MIB, parse_address, parse_duration, parse_resolvers, parse_size

DEFAULT_DATA_DIR = Path("/var/lib/mill")
SECRET_VARIABLE = "MILL_SECRET"  # noqa: S105 -- its name
"""The cluster's secret for a new node; no option, for everybody may read a command line."""
DEFAULT_LISTEN = "127.0.0.1:4400"
DEFAULT_DNS_LISTEN = "127.0.0.1:4453"
DEFAULT_AWAY_S = 600.0
"""How long a node that was stopped may take to come back before its tasks count as lost: an upgrade, with a reboot."""
DEFAULT_NODE_LOST_S = 15.0
"""How long nobody may have heard of a node for its tasks to count as lost: more than a crashed milld takes to come back."""
LEAST_NODE_LOST_S = 15.0
"""Less, and a node that is cut off would not know in time that its answers are no longer the whole truth."""
PEER_PORT = 4401
"""Where nodes hear each other: gossip by UDP, everything else by TCP."""

SHUTDOWN_S = 4.0
"""What a SIGTERM leaves for open requests and half-done starts; systemd and people expect an end within 5 s."""
STARTS_PER_CORE = 2
"""Containers created at once per core: containerd's throughput falls beyond it (measured at 1, 2, 4 and 8)."""
START_TIMEOUT_S = 60.0
"""From an unpacked image to a running container. Usual: 0.05 s; a host that swaps may take seconds."""
KILL_AGAIN_S = 2.0
"""From one SIGKILL that did not end a task to the next: the runtime may have refused it. Bound: well below `KILL_TIMEOUT_S`."""
KILL_TIMEOUT_S = 30.0
"""From SIGKILL to the exit; only a process stuck in the kernel takes longer, and then the end is `interrupted`."""
CLEANUP_RETRY_S = 1.0
"""Pause between tries to clean up after a task while containerd does not answer."""
SAMPLE_INTERVAL_S = 1.0
"""Between two samples of a running task's CPU time: what `ps` and `stats` call "now"."""
API_BODY_BYTES = 1024 * 1024
"""A request body, archives apart. The kernel's limit for arguments and environment is 2 MiB; a spec is far below."""
API_ARCHIVE_BYTES = 64 * 1024**3
"""An uploaded image archive; it is streamed to disk, so that this only stops a client that never ends."""
API_CONNECTIONS = 1024
"""Open connections at once; further ones wait in the kernel's backlog."""
API_WRITE_DEADLINE_S = 30.0
"""A client that takes nothing for so long is cut off; its cursor lets it resume."""
API_KEEP_ALIVE_S = 75.0
"""An idle connection is closed after it (nginx's default; hypercorn's 5 s break clients' pools)."""
WITHDRAWN_KEPT = 1000
"""Orders of other nodes that were taken back: what is on its way for longer than it takes to forget that many, never comes."""
MOST_OWNERS = 3
"""Nodes that are asked to take a task, before its caller is told that there is no room."""
LEADER_S = 1.0
"""For the leader to say where a task goes; then who takes it in goes without."""
ADMIT_S = 5.0
"""For a node to take a task on: one commit. Who is slower leaves it open whether there is a task, which costs more than patience."""
GRANT_S = 30.0
"""How long a key is one request's: well over what a spawn takes together with what gossip does to tell of it."""
KEY_PATIENCE_S = 5.0
"""How long a spawn waits for another by the same key to be answered."""
KEY_POLL_S = 0.05
WITHDRAW_S = 600.0
"""How long a node that may have taken on a task, without a word, is told that it does not count."""
WITHDRAW_AGAIN_S = 1.0
IMAGES_EVERY_S = 2.0
"""How old what a node says of its images may be: containerd has to be asked."""
ASK_TASK_S = 1.0
"""For all other nodes to say whether they know a task that this one has not heard of yet; on an idle link they take 10 ms."""
TELL_RECORD_S = 1.0
"""For the owner of a task to tell its record, beyond what the caller wishes to wait; then it is told as it is known here."""
ASK_ALL_S = 0.3
"""For all other nodes to say what they know of a key, where no leader does. What gossip takes is the bound."""
USAGE_S = 0.5
"""For other nodes to say what their tasks use now; of those that do not, nothing is shown."""
SURE_S = 0.5
"""For enough other nodes to have taken an end before it is told, on an idle link 5 ms; then it is told as partial."""
LONG_POLL_S = 60.0
"""The longest `wait` one request may ask for; a client asks again."""
KEY_LIFETIME_S = 86400.0
"""How long an Idempotency-Key stands for the task that it made: as long as at the services that people know (Stripe's is a day)."""
EVENTS_KEPT = 50_000
"""State changes that can be resumed from, at most; four a task, some 2 kB each. Those of a deleted record go sooner."""
EVENTS_BATCH = 50
"""Events that are read and sent at once to a subscriber who lags behind; it is what milld holds for each of them."""
EVENTS_TAIL_BYTES = 1024 * 1024
"""The latest events, held once for all who keep up."""
EVENTS_HEARTBEAT_S = 15.0
"""A subscriber hears so often that it is still connected; proxies cut what is silent for a minute."""
PAGE_LIMIT = 1000
"""Records in one page of a listing, at most."""
IMAGE_SHARE = 0.8
"""Of the file system that containerd unpacks to, for images unless --image-max-bytes says otherwise; kubelet's is alike."""
PAGE_SIZE = 200
"""Records in a page unless the client says otherwise: 20 ms of work."""
LAG_INTERVAL_S = 0.25
"""Between two samples of the event loop's lag: often enough to see a loop that is slow, at 0.05 % of a core."""
RESERVE_CPU = 0.1
"""Cores that milld and containerd keep for themselves unless --cpu says otherwise."""
RESERVE_MEMORY_BYTES = 512 * 1024**2
"""Memory kept back unless --memory says otherwise."""
DEFAULT_LOG_MAX_BYTES = 512 * MIB
"""What the logs of all tasks of a node may take together, beside the segment that each running task writes."""
DEFAULT_LOG_RETENTION_S = 86400.0
"""How long a task's logs and record are kept after its end."""
LEAST_LOG_MAX_BYTES = MIB

DEFAULT_MESH = IPv4Network("10.99.0.0/16")
"""Where tasks of network mesh have their addresses: room for 64 nodes of 1021 tasks."""
VXLAN_PORT = 4789
"""What IANA gave to VXLAN (RFC 7348)."""
PUBLISH_PORT_CONNECTIONS = 512
"""Open connections of one published port, at most; a further one is reset, which its client sees at once. From 1 on."""
PUBLISH_NODE_CONNECTIONS = 1024
"""The same for all published ports of a node: two descriptors each, and 64 kB where both sides take nothing. Where milld may
open few files it is less: never more than a quarter of them."""
PUBLISH_HALF_CLOSED_S = 600.0
"""Where one side has ended and nothing passes for so long, the other is ended too: clients that leave are not told from those
that only have nothing more to say (nginx's proxy_timeout is as long). As long as neither has ended, silence is no reason."""
PUBLISH_KEEPALIVE_S = 60
"""Of silence until the kernel asks whether the other side is still there; one that has vanished is noticed within twice that."""


_MIRROR = re.compile(
    r"(?:https?://)?(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?/?"
)


def _check_mirrors(_: object, field: Any, value: tuple[str, ...]) -> None:
    """The text is not repeated: somebody may have written a password into it."""
    for index, mirror in enumerate(value):
        match = _MIRROR.fullmatch(mirror)
        if match is None or int(match["port"] or 0) > 65535:  # noqa: PLR2004 -- the last port
            raise FieldError(
                f"{field.name}[{index}]",
                "is no mirror: write HOST, HOST:PORT or http(s)://HOST:PORT, with no path; "
                'its credentials belong into [registry."HOST:PORT"]',
            )


def _check_ca(owner: "RegistryConfig", field: Any, value: str | None) -> None:
    if value is None:
        return
    if owner.plain_http:
        raise FieldError(
            field.name, "is for TLS, and plain_http says that there is none: leave one of them out"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(value)
    except ssl.SSLError:
        raise FieldError(field.name, f"{value} holds no certificate in PEM form") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise FieldError(field.name, f"cannot read {value!r}: {why}") from None


@attrs.frozen
class RegistryConfig:
    """``[registry."HOST"]``: how to reach one registry. Without an entry: HTTPS, and Docker's config.json for credentials.

    `plain_http` None: plain on loopback, unless `ca` (a PEM file, trusted for this registry's sake beside what the system
    trusts) says that it speaks TLS. `mirrors` are asked first, in their order; each has its own entry, or none.
    """

    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    plain_http: bool | None = None
    mirrors: tuple[str, ...] = attrs.field(default=(), validator=_check_mirrors)
    ca: str | None = attrs.field(default=None, validator=_check_ca)


@attrs.frozen
class PeerConfig:
    """``[peer.NAME]``: another node whose tasks are reached from here, known beforehand: its address, and its --mesh-subnet."""

    address: str = attrs.field(validator=checks.check_underlay)
    subnet: str = attrs.field(validator=checks.check_subnet)


@attrs.frozen
class Config:
    """One milld's setup, complete. `cpu` and `memory` None: what the host has, less the reserve."""

    data_dir: Path = DEFAULT_DATA_DIR
    name: str | None = None
    containerd: str = "auto"
    runtime: str = "runc"
    systemd_cgroup: bool = False
    listen: str = DEFAULT_LISTEN
    advertise: str | None = None
    cpu: float | None = None
    memory: int | None = None
    docker_config: Path | None = None
    image_max_bytes: int | None = None
    allow_mounts: tuple[str, ...] = ()
    log_max_bytes: int = DEFAULT_LOG_MAX_BYTES
    log_retention_secs: float = DEFAULT_LOG_RETENTION_S
    dns_listen: str = DEFAULT_DNS_LISTEN
    dns_upstream: tuple[tuple[str, int], ...] = ()
    mesh_cidr: IPv4Network = DEFAULT_MESH
    mesh_subnet: IPv4Network | None = None
    mesh_link: str = "vxlan"
    mesh_port: int = VXLAN_PORT
    peers: Mapping[str, PeerConfig] = attrs.field(factory=dict)
    registries: Mapping[str, RegistryConfig] = attrs.field(factory=dict)
    rebuild_records: bool = False
    tls_names: tuple[str, ...] = ()
    secret_file: Path | None = None
    secret: str | None = attrs.field(default=None, repr=False)
    peer_port: int = PEER_PORT
    join: tuple[tuple[str, int], ...] = ()
    away_secs: float = DEFAULT_AWAY_S
    node_lost_secs: float = DEFAULT_NODE_LOST_S
    templates: Mapping[str, Draft] = attrs.field(factory=dict)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is not a text")
    return value


def _path(value: object) -> Path:
    return Path(_text(value)).absolute()


def _name(value: object) -> str:
    if not checks.is_label(_text(value).lower(), 63):
        raise ValueError(f"{value!r} is no DNS label: use a-z, 0-9 and inner hyphens")
    return _text(value).lower()


def _containerd(value: object) -> str:
    text = _text(value).removeprefix("unix://")
    if text not in {"auto", "embedded"} and not text.startswith("/"):
        raise ValueError(f"{value!r} is none of auto, embedded, or the absolute path of a socket")
    return text


def _listen(value: object) -> str:
    parse_address(_text(value))
    return _text(value)


def _tls_names(value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(
        isinstance(name, str) and checks.is_host_name(name.lower()) for name in names
    ):
        raise ValueError(f"{value!r} is no list of host names: write mill.example.com,mill")
    return tuple(name.lower() for name in names)


def _advertise(value: object) -> str:
    return str(ip_address(_text(value)))


def _join(value: object) -> tuple[tuple[str, int], ...]:
    """A list, or a text with commas; each HOST, HOST:PORT or [IPv6]:PORT."""
    texts = value.split(",") if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts:
        raise ValueError(f"{value!r} is no list of nodes: write HOST or HOST:PORT")
    return tuple(dict.fromkeys(_seed(_text(text).strip()) for text in texts))


def _seed(text: str) -> tuple[str, int]:
    host, port = text, str(PEER_PORT)
    if text.startswith("[") or text.count(":") == 1:
        host, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", port)
    host = host.removeprefix("[").removesuffix("]").lower()
    try:
        ip_address(host)
    except ValueError:
        if not checks.is_host_name(host):
            raise ValueError(f"{text!r} is no node's address: write HOST or HOST:PORT") from None
    return host, checks.parse_port(port)


def _cpu(value: object) -> float:
    try:
        cores = (
            float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
        )
    except (ValueError, OverflowError):
        cores = math.nan
    if not (math.isfinite(cores) and cores >= checks.LEAST_CPU):
        raise ValueError(f"{value!r} is not a number of cores: write {checks.LEAST_CPU} or more")
    return cores


def _memory(value: object) -> int:
    size = parse_size(value)
    if size < checks.LEAST_MEMORY_BYTES:
        raise ValueError(f"{value!r} is too little to run anything")
    return size


def _log_max_bytes(value: object) -> int:
    size = parse_size(value)
    if size < LEAST_LOG_MAX_BYTES:
        raise ValueError(f"{value!r} is too little to keep logs in: write 1M or more")
    return size


def _retention(value: object) -> float:
    seconds = parse_duration(value)
    if not 0 < seconds <= checks.MOST_TIMEOUT_S:
        raise ValueError(f"{value!r} is not more than 0s and at most {checks.MOST_TIMEOUT_S / 86400:g} days")
    return seconds


def _node_lost(value: object) -> float:
    seconds = parse_duration(value)
    if not LEAST_NODE_LOST_S <= seconds <= checks.MOST_TIMEOUT_S:
        raise ValueError(f"{value!r} is less than {LEAST_NODE_LOST_S:g}s: nobody can be sure sooner")
    return seconds


def switch(value: object) -> bool:
    """An option that is on or off: a flag may do without a value."""
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    text = str(value).lower() if isinstance(value, str | bool) else ""
    if text not in known:
        raise ValueError(f"{value!r} is neither true nor false")
    return known[text]


def _paths(value: object) -> tuple[str, ...]:
    paths = value.split(":") if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(
        isinstance(path, str) and path.startswith("/") for path in paths
    ):
        raise ValueError(f"{value!r} is not a list of absolute paths")
    return tuple(os.path.normpath(path) for path in paths)


OPTIONS: Mapping[str, tuple[Callable[[object], Any], str]] = {
    "data_dir": (_path, "everything milld keeps: node id, SQLite, logs, token, embedded containerd"),
    "name": (_name, "this node's name (default: the host name)"),
    "containerd": (
        _containerd,
        "auto (the system's if it answers, else our own), embedded, or a socket's path",
    ),
    "runtime": (_text, "the OCI runtime: runc, crun, runsc, or the absolute path of one"),
    "systemd_cgroup": (switch, "have systemd make the tasks' cgroups (as slices and scopes of its own)"),
    "listen": (_listen, "address and port of the API; off loopback it speaks TLS"),
    "secret_file": (
        _path,
        "the secret of the cluster that a new node is to be of (or the secret itself in MILL_SECRET; default: a new one)",
    ),
    "tls_names": (
        _tls_names,
        "host names, separated by commas, that users reach the API by beside the host's own: for its certificate",
    ),
    "dns_listen": (
        _listen,
        f"address and port of DNS for this host, UDP and TCP (default: {DEFAULT_DNS_LISTEN})",
    ),
    "dns_upstream": (
        parse_resolvers,
        "resolvers for all names but .mill, IP[:PORT], separated by commas (default: the host's resolv.conf)",
    ),
    "advertise": (
        _advertise,
        "the IP address that others reach this node by; with it, or with --join, it listens there for other nodes",
    ),
    "peer_port": (
        checks.parse_port,
        f"where nodes hear each other, UDP and TCP; the same on all is simplest (default: {PEER_PORT})",
    ),
    "away_secs": (
        _retention,
        "how long other nodes wait for this one when it was stopped, before its tasks count as lost (default: 10m)",
    ),
    "node_lost_secs": (
        _node_lost,
        "how long nobody may have heard of a node for its tasks to count as lost; the same on all nodes (default: 15s)",
    ),
    "join": (_join, "a node of the cluster to be of, HOST[:PORT]; may be given more than once"),
    "mesh_cidr": (
        checks.parse_mesh_range,
        "the range that all nodes' tasks have their addresses of (default: 10.99.0.0/16)",
    ),
    "mesh_subnet": (checks.parse_mesh_range, "this node's part of it (default: the first /22 that is free)"),
    "mesh_link": (
        checks.parse_mesh_link,
        "to other nodes' tasks: vxlan, routes (nodes on one link), or auto (default: vxlan)",
    ),
    "mesh_port": (checks.parse_port, "UDP port of the VXLAN (default: 4789)"),
    "cpu": (_cpu, "cores this node offers (default: what it has, less a reserve)"),
    "memory": (_memory, "memory this node offers (default: what it has, less a reserve)"),
    "log_max_bytes": (
        _log_max_bytes,
        "what all logs together may take; the oldest lines go first (default: 512M)",
    ),
    "log_retention_secs": (
        _retention,
        "how long logs and records are kept after a task's end (default: 24h)",
    ),
    "docker_config": (
        _path,
        "Docker's config.json with registry credentials (default: ~/.docker/config.json)",
    ),
    "image_max_bytes": (
        parse_size,
        "what images may take on the disk, such as 20G; 0: no limit (default: 80 % of its file system)",
    ),
    "rebuild_records": (switch, "set a damaged database aside; rebuild records from what containerd knows"),
    "allow_mounts": (
        _paths,
        "host paths, separated by colons, below which tasks may bind-mount (default: none)",
    ),
}
"""Every option: its parser and its help. Flags, environment and file all go through this table."""
REPEATABLE = frozenset({"join"})
"""Options whose flag may be given more than once; the values are joined by commas."""


def load(flags: Mapping[str, object], environ: Mapping[str, str], config_file: Path | None) -> Config:
    """The one configuration out of its three sources; raises `SetupError`."""
    values: dict[str, Any] = {}
    if config_file is not None:
        values = _from_file(config_file)
    for option in OPTIONS:
        variable = f"MILL_{option.upper()}"
        flag = flags.get(option)
        if flag is not None:
            values[option] = _parsed(option, flag, f"--{option.replace('_', '-')}")
        elif environ.get(variable):
            values[option] = _parsed(option, environ[variable], variable)
    return Config(**values, secret=environ.get(SECRET_VARIABLE) or None)


def _parsed(option: str, value: object, where: str) -> Any:
    try:
        return OPTIONS[option][0](value)
    except ValueError as error:
        raise SetupError(f"{where}: {error}") from None


def _from_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SetupError(f"{path}: is not UTF-8 text") from None
    data = _toml(text, str(path))
    values: dict[str, Any] = {}
    for key, value in data.items():
        option = key.replace("-", "_")
        if key == "task":
            values["templates"] = _templates(value, text, str(path))
        elif key == "registry":
            values["registries"] = _registries(value, text, str(path))
        elif key == "peer":
            pairs = _named(value, "peer", text, str(path))
            values["peers"] = {
                name: _table(PeerConfig, "peer", name, table, text, str(path)) for name, table in pairs
            }
        elif option in OPTIONS:
            values[option] = _parsed(option, value, f"{path}:{_line_of(text, [key])}: {key}")
        else:
            known = ", ".join((*OPTIONS, "[task.NAME]", '[registry."HOST"]', "[peer.NAME]"))
            raise SetupError(f"{path}:{_line_of(text, [key])}: unknown key {key!r}; known are: {known}")
    return values


def parse_templates(text: str, source: str) -> dict[str, Draft]:
    """The ``[task.NAME]`` tables of *text*, and nothing else in it; raises `SetupError` naming *source* and the line."""
    data = _toml(text, source)
    for key in data:
        if key != "task":
            raise SetupError(
                f"{source}:{_line_of(text, [key])}: unknown key {key!r}; only [task.NAME] tables belong here"
            )
    if "task" not in data:
        raise SetupError(f"{source}: holds no [task.NAME] table")
    return _templates(data["task"], text, source)


def _toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        where = (
            f"{match[1]}:{match[2]}" if match else f"{len(text.splitlines()) or 1}"
        )  # else: at the document's end
        raise SetupError(f"{source}:{where}: is not TOML: {str(error).split(' (at ')[0]}") from None


def _templates(tables: object, text: str, source: str) -> dict[str, Draft]:
    return {
        name: _table(Draft, "task", name, table, text, source)
        for name, table in _named(tables, "task", text, source)
    }


def _registries(tables: object, text: str, source: str) -> dict[str, RegistryConfig]:
    pairs = _named(tables, "registry", text, source)
    return {host: _table(RegistryConfig, "registry", host, table, text, source) for host, table in pairs}


def _named(tables: object, kind: str, text: str, source: str) -> list[tuple[str, object]]:
    if not isinstance(tables, dict):
        raise SetupError(f"{source}:{_line_of(text, [kind])}: {kind}: write [{kind}.NAME] tables")
    for name in tables:
        if kind == "task" and not checks.is_label(name):
            raise SetupError(
                f"{source}:{_line_of(text, [kind, name])}: {_shown(kind, name)}: the name is no DNS label"
            )
    return list(tables.items())


def _table(cls: type[Any], kind: str, name: str, table: object, text: str, source: str) -> Any:
    try:
        return from_json(cls, table, strict=True)
    except FieldError as error:
        keys = [kind, name, *re.split(r"[.\[]", re.sub(r"\[\d+\]", "", error.field))]
        path = _shown(kind, name, error.field)
        raise SetupError(f"{source}:{_line_of(text, keys)}: {path}: {error.message}") from None


def _shown(*keys: str) -> str:
    """A key's path on one line, whatever a quoted key holds."""
    path = ".".join(key for key in keys if key)
    return "".join(char if char.isprintable() else "?" for char in path)


def _line_of(text: str, path: list[str]) -> int:
    """The line, from 1, where the keys of *path* were last seen one after another: good enough to point a person at."""
    at = column = 0
    lines = text.split("\n")
    for key in path:
        pattern = re.compile(rf"(?:^|[\[.\s{{,\"']){re.escape(key)}(?:[\]\"'.\s=]|$)")
        for index in range(at, len(lines)):
            match = pattern.search(lines[index].split("#")[0], column if index == at else 0)
            if match:
                at, column = index, match.end() - 1
                break
    return at + 1
