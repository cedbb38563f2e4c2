"""Nodes of Mill on this host, this one and others: what runs, and what an other one that does not run has left.

Nothing of theirs is touched, not even a lock. Who owns what is told by the node's id: in labels of containerd's objects, and by
its first characters in the names of control groups.
"""

from collections.abc import Iterator
from pathlib import Path

import attrs

from mill.containerd.cgroups import Cgroups
from mill.daemon.datadir import NODE_NAME
from mill.daemon.doctor.findings import Finding, ok, warning
from mill.daemon.doctor.host import Host, read

GROUP = "/mill"
SHORT = 8
"""So many characters of a node's id name its control group."""
KINDS = ("containers", "snapshots", "native snapshots", "leases")
SHOWN = 3
_HOLDER = "/mill/logs/holder.py"
_CONFIG, _SOCKET = "/containerd/config.toml", "/containerd/containerd.sock"
"""Of an embedded containerd, below the data directory."""


@attrs.define
class Belongings:
    """What is there of one node. `data_dir`, `milld` (its pid) and `node` (its full id) as far as they are known."""

    node: str
    data_dir: Path | None = None
    milld: int | None = None
    objects: dict[str, list[str]] = attrs.field(factory=dict)
    """Of containerd, by kind."""
    groups: dict[str, int] = attrs.field(factory=dict)
    """Tasks' control groups, with the number of processes in each."""
    processes: dict[int, str] = attrs.field(factory=dict)
    """Log holders, embedded containerds and their shims, by pid."""

    @property
    def anything(self) -> bool:
        return bool(self.groups or self.processes or any(self.objects.values()))


def others(host: Host, labelled: dict[str, dict[str, list[str]]]) -> list[Belongings]:
    """Every node but this one that anything is there of; *labelled* is what containerd has, by node and kind."""
    found: dict[str, Belongings] = {}
    for pid, what, data_dir in _processes(host):
        if data_dir == host.data_dir:
            continue
        node = read(data_dir / NODE_NAME).strip() or str(data_dir)
        one = found.setdefault(node[:SHORT] if "/" not in node else node, Belongings(node))
        one.data_dir, one.milld = data_dir, host.milld_of(data_dir)
        one.processes[pid] = what
    for node, objects in labelled.items():
        one = found.setdefault(node[:SHORT], Belongings(node))
        one.node, one.objects = node, objects
    for short, tasks in _groups(host).items():
        found.setdefault(short, Belongings(short)).groups = tasks
    own = host.node_id
    return [one for one in found.values() if one.anything and not (own and own.startswith(one.node[:SHORT]))]


def _processes(host: Host) -> Iterator[tuple[int, str, Path]]:
    """(pid, what it is, data directory) of every log holder, and every embedded containerd with its shims."""
    for pid, words in host.processes():
        program = Path(words[0]).name
        if len(words) > 1 and words[-2].endswith(_HOLDER):
            yield pid, "log holder", Path(words[-1])
        elif program == "containerd" and words[-1].endswith(_CONFIG):
            if not words[-1].startswith("/etc/"):
                yield pid, "containerd", Path(words[-1].removesuffix(_CONFIG))
        elif program.startswith("containerd-shim") and "-address" in words[:-1]:
            address = words[words.index("-address") + 1]
            if address.endswith(_SOCKET) and not address.startswith("/run/"):
                yield pid, "shim", Path(address.removesuffix(_SOCKET))


def _groups(host: Host) -> dict[str, dict[str, int]]:
    cgroups = Cgroups.detect(host.sys_fs_cgroup)
    base = host.sys_fs_cgroup / ("" if cgroups.v2 else "pids") / GROUP.strip("/")
    return {
        short: {
            task: len(read(base / short / task / "cgroup.procs").split())
            for task in sorted(cgroups.children(f"{GROUP}/{short}"))
        }
        for short in sorted(cgroups.children(GROUP))
    }


def judge(one: Belongings, socket: str, groups: Path) -> Finding:
    """*socket* is that of the containerd whose objects these are, *groups* the folder of Mill's control groups."""
    name = f"node {one.node[:SHORT] if '/' not in one.node else ''}".strip()
    where = f" ({one.data_dir})" if one.data_dir else ""
    if one.milld is not None:
        return ok("leftovers", f"{name}{where} runs here too, pid {one.milld}")
    has = [
        f"{_counted(len(names), kind.removesuffix('s'))} ({_some(names)})"
        for kind, names in one.objects.items()
        if names
    ]
    if one.groups:
        inside = sum(one.groups.values())
        has.append(f"{_counted(len(one.groups), 'control group')} with {_counted(inside, 'process', 'es')}")
    for what in sorted(set(one.processes.values())):
        pids = [str(pid) for pid, kind in one.processes.items() if kind == what]
        has.append(f"{_counted(len(pids), what)} (pid {_some(pids)})")
    found = f"{name}{where}, whose milld does not run, has left: {', '.join(has)}"
    return warning("leftovers", found, *_removal(one, socket, groups))


def _counted(count: int, what: str, plural: str = "s") -> str:
    return f"{count} {what}{plural if count != 1 else ''}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _removal(one: Belongings, socket: str, groups: Path) -> Iterator[str]:
    """What to do: start it again, or what removes everything, in an order that works."""
    again = f"milld --data-dir {one.data_dir}" if one.data_dir and one.data_dir.exists() else "its milld"
    yield f"start {again} again and it goes on with them; or, where nobody needs them any more:"
    ctr = f"ctr -a {socket} -n mill"
    short = one.node[:SHORT]
    containers = one.objects.get("containers", ())
    for task in containers:
        yield f"{ctr} tasks rm -f {task}; {ctr} containers rm {task}"
    for key in one.objects.get("snapshots", ()):
        yield f"{ctr} snapshots rm {key}"
    for key in one.objects.get("native snapshots", ()):
        yield f"{ctr} snapshots --snapshotter native rm {key}"
    for lease in one.objects.get("leases", ()):
        yield f"{ctr} leases rm {lease}"
    if sum(one.groups.values()) and not containers:
        yield f"kill -9 $(cat {groups}/{short}/*/cgroup.procs)"
    if one.groups:
        yield f"find {groups.parent.parent if groups.parent.name == 'pids' else groups.parent} -depth -path '*/mill/{short}*' -type d -exec rmdir {{}} +"
    if one.processes:
        yield f"kill {' '.join(map(str, one.processes))}"
