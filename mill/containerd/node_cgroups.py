"""Where the cgroup of each task of one node is, and who makes it: the runtime itself, or systemd on its behalf.

By the runtime (the default): ``/mill/<node>/<id>``. By systemd (`systemd_cgroup`): a scope for the processes, in a slice of the
task's own, for systemd removes a scope as soon as its last process has ended, and with it what `memory.events` and
`memory.peak` said: kept descriptors answer ENODEV then. A slice stays until it is stopped, and what happened below it is in
its own counters. So a task's cgroup is its slice here, and the runtime's is one below it.

`runtime` calls this with task ids; `cgroups` knows the kernel's files. Blocks for a few of them, or for systemd's answer.
"""

import errno
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import attrs
import structlog

from mill.containerd.cgroups import Cgroups, Meter
from mill.errors import SetupError

SYSTEMD = Path("/run/systemd/system")
"""Here when systemd is the init system: sd_booted(3)."""
STOP_S = 20.0
"""For systemd to stop an empty slice; usually some 10 ms."""
_PLAIN = "/mill"
_SLICE = "mill"
_DASH = "\\x2d"
"""A dash within one step of a slice's name, which has a step for each dash: systemd.unit(5)."""

log = structlog.get_logger()


def check_systemd(cgroups: Cgroups, runtime: str, running: Path = SYSTEMD) -> None:
    """Return where systemd can make the cgroups of *runtime*; `SetupError` elsewhere."""
    if not running.is_dir():
        raise SetupError("systemd_cgroup: systemd does not run here; leave the option out")
    if not cgroups.v2:
        raise SetupError("systemd_cgroup: needs cgroup v2 alone, without v1 beside it; leave the option out")
    if runtime == "runsc":
        raise SetupError("systemd_cgroup: works with runc and crun; leave the option out with runsc")
    if shutil.which("systemctl") is None:
        raise SetupError("systemd_cgroup: needs the program systemctl in PATH")


@attrs.frozen
class NodeCgroups:
    """The cgroups of one node's tasks; *node* is the beginning of its id. `systemd` says who makes new ones.

    Those of both kinds are found and removed: a milld may be restarted with the other setting while tasks run.
    """

    cgroups: Cgroups
    node: str
    systemd: bool = False

    def asked(self, task_id: str) -> str:
        """The ``cgroupsPath`` of the task's config.json."""
        if self.systemd:
            return f"{self._slice(task_id)}:{_SLICE}-{self.node}:{task_id}"
        return self._plain(task_id)

    @property
    def annotations(self) -> Mapping[str, str]:
        """What else runc and crun must tell systemd: to forget a scope that ended badly as any other, and of no swap.

        That swap is as much as memory runc writes behind systemd's back, which undoes it when the CPU quota is set.
        """
        said = {"CollectMode": "'inactive-or-failed'", "MemorySwapMax": "uint64 0"} if self.systemd else {}
        return {f"org.systemd.property.{name}": value for name, value in said.items()}

    def path(self, task_id: str) -> str:
        """The task's cgroup below each hierarchy, wherever it is."""
        paths = [self._plain(task_id), self._below_slices(task_id)]
        mine, other = reversed(paths) if self.systemd else paths
        return other if self.cgroups.exists(other) and not self.cgroups.exists(mine) else mine

    def meter(self, task_id: str) -> Meter:
        return self.cgroups.meter(self.path(task_id))

    def limit_cpu(self, task_id: str, quota_us: int, period_us: int) -> None:
        """Set the CPU quota; OSError where it is the runtime's to do: what systemd was not told, it undoes at a reload."""
        if self.systemd:
            raise OSError(errno.EOPNOTSUPP, "systemd must be told of it")
        self.cgroups.limit_cpu(self._plain(task_id), quota_us, period_us)

    def task_ids(self) -> set[str]:
        """Of every task that has a cgroup here, running or not."""
        prefix, suffix = f"{_SLICE}-{self.node}-", ".slice"
        slices = {name for name in self.cgroups.children(self._below_slices("")) if name.startswith(prefix)}
        return self.cgroups.children(self._plain("")) | {
            name.removeprefix(prefix).removesuffix(suffix).replace(_DASH, "-") for name in slices
        }

    def remove(self, task_id: str) -> None:
        """The cgroup of a task that has ended."""
        if self.cgroups.exists(self._below_slices(task_id)):
            _stop(self._slice(task_id))
            self.cgroups.remove(self._below_slices(task_id))
        self.cgroups.remove(self._plain(task_id))

    def remove_node(self) -> None:
        """The node's own cgroup, when no task has one in it; that of an ended one holds what the next milld must know."""
        self.cgroups.remove(self._plain(""), below=False)
        self.cgroups.remove(_PLAIN, below=False)
        if self.cgroups.exists(self._below_slices("")) and not self.task_ids():
            _stop(f"{_SLICE}-{self.node}.slice")

    def _plain(self, task_id: str) -> str:
        return f"{_PLAIN}/{self.node}/{task_id}".rstrip("/")

    def _slice(self, task_id: str) -> str:
        return f"{_SLICE}-{self.node}-{task_id.replace('-', _DASH)}.slice"

    def _below_slices(self, task_id: str) -> str:
        node = f"/{_SLICE}.slice/{_SLICE}-{self.node}.slice"
        return f"{node}/{self._slice(task_id)}" if task_id else node


def _stop(unit: str) -> None:
    """Have systemd stop *unit* and all in it, which removes the cgroup; what is not there is stopped."""
    command = ["systemctl", "--quiet", "stop", unit]
    try:
        done = subprocess.run(  # noqa: S603 -- the name is made of a node's and a task's id
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STOP_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("systemd did not stop a slice", unit=unit, why=str(error))
    else:
        if done.returncode:
            log.warning("systemd did not stop a slice", unit=unit, why=" ".join(done.stderr.split()))
