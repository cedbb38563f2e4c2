"""What a node has left behind: containers, snapshots, leases, cgroups, FIFOs, processes, mounts and the rest, one line each.

`find` looks at one node's own objects (by its data directory, its containerd and its cgroup), so that nodes beside it do
not matter; `wait_clean` gives the cleaning after a terminal record its moment; `sweep` removes by force what a failed
test left. Called by `tests/node.py` after every node; knows containerd by `ctr` and the kernel by /proc and /sys only.
"""

import contextlib
import hashlib
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import attrs

from mill.network import nftables, rtnetlink
from mill.network.kernel import NETFILTER, ROUTE, Netlink
from tests.pace import stretched

CGROUPS = Path("/sys/fs/cgroup")
SHIM_SOCKETS = Path("/run/containerd/s")
RUNC_STATE = Path("/run/containerd/runc/mill")
NETNS = Path("/run/netns")
_HOSTS_OF_TESTS = re.compile(r"(?:/var)?/run/netns/m[tw][0-9]+-[0-9]+|/tmp/mill-docker-[^/]+/.+")
SNAPSHOTTERS = ("overlayfs", "native")
CLEAN_WITHIN_S = stretched(8)
"""Removing what ended tasks used takes well under a second each; a loaded machine gets more."""
POLL_S = 0.05


@attrs.frozen
class Site:
    """Where one node keeps its things. `ids` are all tasks it ever had, for what lies in folders shared by the host."""

    data_dir: Path
    socket: Path
    cgroup: str
    """The node's control group below each hierarchy: ``mill/<first 8 characters of the node id>``, or its slice."""
    ids: frozenset[str] = frozenset()
    namespaces_before: frozenset[str] = frozenset()
    """Network namespaces that were there before the node was."""


def find(site: Site, *, allowed: Iterable[int] = ()) -> list[str]:
    """Every leak as one line. *allowed* are the pids that belong to a node at rest (milld, containerd, the log holder)."""
    allowed = set(allowed)
    looks: list[Callable[[Site], Iterator[str]]] = [
        _cgroups, _fifos, _mounts, _network_namespaces, _bundles, _shared_files,
        partial(_network, idle=bool(allowed)),
    ]  # fmt: skip
    if _answers(site):
        looks.insert(0, partial(_containerd_objects, idle=bool(allowed)))
    found = [line for look in looks for line in look(site)]
    return found + [f"process {pid} is left: {line}" for pid, line in processes(site) if pid not in allowed]


def wait_clean(
    site: Site, *, allowed: Callable[[], Iterable[int]] = tuple, within_s: float = CLEAN_WITHIN_S
) -> list[str]:
    """What is still there after *within_s*; empty as soon as nothing is."""
    until = time.monotonic() + within_s
    while (left := find(site, allowed=allowed())) and time.monotonic() < until:
        _pause()
    return left


def network_namespaces() -> frozenset[str]:
    """Names in /run/netns and every bind mount of a network namespace, but for the hosts and Dockers that tests make."""
    named = {str(path) for path in NETNS.iterdir()} if NETNS.is_dir() else set()
    found = named | {where for kind, where in _mount_table() if kind == "nsfs"}
    return frozenset(where for where in found if _HOSTS_OF_TESTS.fullmatch(where) is None)


def processes(site: Site) -> list[tuple[int, str]]:
    """Every process whose command line names the data directory (milld, containerd, shims, runc, the holder)."""
    found = []
    needle = str(site.data_dir).encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes()
            if needle in line:
                found.append(
                    (int(folder.name), line.replace(b"\0", b" ").decode(errors="replace").strip()[:160])
                )
    return found


def sweep(site: Site) -> None:
    """Remove by force: the processes in the node's cgroups, those that name its data directory, mounts, cgroups, shared files."""
    for group in _node_cgroups(site):
        for procs in group.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                _kill_all(int(pid) for pid in procs.read_text().split())
    for _ in range(int(CLEAN_WITHIN_S / POLL_S)):
        if not (left := processes(site)):
            break
        _kill_all(pid for pid, _ in left)
        _pause()
    for _, where in sorted(_mount_table(), key=lambda mount: mount[1], reverse=True):
        if where.startswith(f"{site.data_dir}/"):
            subprocess.run(["umount", "-l", where], check=False)
    remove_cgroups(site)
    remove_network(site)
    for path in _shared_paths(site):
        subprocess.run(["rm", "-rf", str(path)], check=False)


def remove_cgroups(site: Site) -> None:
    """The node's own groups, which a stopped node keeps for its next start; a data directory that goes away takes them along."""
    if site.cgroup.endswith(".slice"):
        subprocess.run(["systemctl", "--quiet", "stop", Path(site.cgroup).name], check=False)
        return
    for group in _node_cgroups(site):
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        with contextlib.suppress(OSError):
            group.parent.rmdir()


# -- containerd -----------------------------------------------------------------------------------------------------


def _ctr(site: Site, *args: str) -> list[str]:
    command = ["ctr", "--address", str(site.socket), "--namespace", "mill", *args]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=stretched(30))
    return done.stdout.splitlines() if done.returncode == 0 else []


def _answers(site: Site) -> bool:
    return site.socket.exists() and bool(_ctr(site, "version"))


def _containerd_objects(site: Site, *, idle: bool) -> Iterator[str]:
    """Of a node that is up, the layers that it made ahead for tasks to come are no leak."""
    for id_ in _ctr(site, "containers", "ls", "-q"):
        yield f"container {id_} is left in containerd"
    for row in _ctr(site, "tasks", "ls")[1:]:
        yield f"task {row.split()[0]} is left in containerd ({row.split()[-1]})"
    for snapshotter in SNAPSHOTTERS:
        for row in _ctr(site, "snapshots", "--snapshotter", snapshotter, "ls")[1:]:
            key = row.split()[0]
            if row.split()[-1] == "Committed":  # a layer of an image
                continue
            if not (idle and key not in site.ids and _is_spare(site, snapshotter, key)):
                yield f"snapshot {key} is left in {snapshotter}"
    for id_ in _ctr(site, "leases", "ls", "-q"):
        yield f"lease {id_} is left in containerd"


def _is_spare(site: Site, snapshotter: str, key: str) -> bool:
    return any(
        '"mill.spare"' in line for line in _ctr(site, "snapshots", "--snapshotter", snapshotter, "info", key)
    )


def _bundles(site: Site) -> Iterator[str]:
    """What containerd's shims and runc keep of each task in the data directory."""
    for bundle in site.data_dir.glob("containerd/*/io.containerd.runtime.v2.task/mill/*"):
        yield f"bundle {bundle} is left"
    for state in site.data_dir.glob("runc/mill/[!.]*"):  # crun keeps a .empty-directory there, for all
        yield f"runc state {state} is left"


# -- the kernel -----------------------------------------------------------------------------------------------------


def _node_cgroups(site: Site) -> list[Path]:
    hierarchies = [
        CGROUPS,
        *(path for path in CGROUPS.iterdir() if path.is_dir()),
    ]  # v2 alone, or v1 controllers
    return [group for path in hierarchies if (group := path / site.cgroup).is_dir()]


def _cgroups(site: Site) -> Iterator[str]:
    for node in _node_cgroups(site):
        for group in sorted(path for path in node.iterdir() if path.is_dir()):
            with contextlib.suppress(OSError):  # it may go while we look
                count = sum(len(procs.read_text().split()) for procs in group.rglob("cgroup.procs"))
                yield f"cgroup {group} is left with {count} processes"


def _fifos(site: Site) -> Iterator[str]:
    for folder, _, names in os.walk(site.data_dir):
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                if stat.S_ISFIFO(path.lstat().st_mode):
                    yield f"FIFO {path} is left"


def _mount_table() -> list[tuple[str, str]]:
    """(file system type, mount point) of every mount here; man 5 proc_pid_mountinfo."""
    rows = [line.split(" - ", 1) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [(after.split()[0], before.split()[4]) for before, after in rows]


def _mounts(site: Site) -> Iterator[str]:
    for kind, where in _mount_table():
        if where.startswith(f"{site.data_dir}/"):
            yield f"mount {where} ({kind}) is left"


def _network_namespaces(site: Site) -> Iterator[str]:
    for name in sorted(network_namespaces() - site.namespaces_before):
        yield f"network namespace {name} is left"


READY_LINKS = 8
"""How many namespaces a running node keeps ready."""


def network_of(node: str) -> tuple[list[str], list[str]]:
    """Links of the tasks of *node* (the first 8 characters of its id), and whatever else is its own in the host's network."""
    route = Netlink.open(ROUTE)
    links = [rtnetlink.read_link(answer).name for answer in route.dump(rtnetlink.get_links())]
    ways = map(rtnetlink.read_route, route.dump(rtnetlink.get_routes()))
    routes = [f"route to {way.to}" for way in ways if way is not None and way.protocol == rtnetlink.OURS]
    route.close()
    tasks = sorted(name for name in links if name.startswith(f"m{node}"))
    rest = [f"link {name}" for name in links if name in {f"mill-{node}", f"millx{node}"}] + routes
    nft = Netlink.open(NETFILTER)
    try:
        for table in ("filter", f"mill-{node}"):
            rules = map(nftables.read_rule, nft.dump(nftables.get_rules(table)))
            rest += [f"rule in {table} {rule.chain}" for rule in rules if rule.comment == f"mill-{node}"]
    finally:
        nft.close()
    return tasks, rest


def _network(site: Site, *, idle: bool) -> Iterator[str]:
    """A running node has its bridge, its rules and a few ready namespaces; a stopped one nothing."""
    tasks, rest = network_of(site.cgroup.rpartition("/")[2] or "-")
    if idle:
        tasks, rest = tasks[READY_LINKS:], []
    yield from (f"link {name} of a task is left" for name in tasks)
    yield from (f"{what} is left" for what in rest)


def remove_network(site: Site) -> None:
    """By force: what a killed milld leaves."""
    tasks, rest = network_of(site.cgroup.rpartition("/")[2] or "-")
    for name in [*tasks, *(what.removeprefix("link ") for what in rest if what.startswith("link "))]:
        subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
    remove_rules(site.cgroup.rpartition("/")[2] or "-")


def remove_rules(node: str) -> None:
    """Those of *node* out of every table."""
    nft = Netlink.open(NETFILTER)
    for rule in map(nftables.read_rule, nft.dump(nftables.get_rules("filter"))):
        if rule.comment == f"mill-{node}":
            nft.do_together(nftables.delete_rule("filter", rule.chain, rule.handle))
    with contextlib.suppress(FileNotFoundError):
        nft.do_together(nftables.delete_table(f"mill-{node}"))
    nft.close()


def shim_socket(containerd: Path, task_id: str) -> Path:
    """Where containerd 1.6 to 2.x put the socket of a task's shim."""
    return SHIM_SOCKETS / hashlib.sha256(f"{containerd}/mill/{task_id}".encode()).hexdigest()


def _shared_paths(site: Site) -> list[Path]:
    """What containerd and runc keep of our tasks outside of the data directory."""
    return [path for id_ in site.ids for path in (shim_socket(site.socket, id_), RUNC_STATE / id_)]


def _shared_files(site: Site) -> Iterator[str]:
    for path in _shared_paths(site):
        if path.exists():
            yield f"{'shim socket' if path.is_socket() else 'runc state'} {path} is left"


def _kill_all(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _pause() -> None:
    """Between two looks at a condition that nothing announces."""
    time.sleep(POLL_S)
