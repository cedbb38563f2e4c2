"""Who runs it, file descriptors, and memory: what milld has to work with."""

import re
import resource
from collections.abc import Iterator

from mill.config import RESERVE_MEMORY_BYTES, Config
from mill.daemon.doctor.findings import Finding, ok, problem, warning
from mill.daemon.doctor.host import Host, read
from mill.units import GIB, KIB, format_size

LEAST_FILES, FEW_FILES = 1_024, 16_384
"""milld and its log holder need about ten for each running task; tasks get what milld has."""
LITTLE_BYTES = GIB
"""Less than it is no machine for containers."""


def root(host: Host) -> Iterator[Finding]:
    yield judge_root(host.euid)


def judge_root(euid: int) -> Finding:
    if euid == 0:
        return ok("root", "runs as root")
    return problem(
        "root",
        "milld must run as root; what only root can see was left out here",
        "run it again as root: sudo mill doctor",
    )


def files(host: Host) -> Iterator[Finding]:
    """The hard limit, which milld raises its own to; that of the milld that runs, where one does."""
    pid = host.milld_of(host.data_dir)
    text = read(host.proc / str(pid) / "limits") if pid is not None else ""
    match = re.search(r"^Max open files\s+\S+\s+(\d+)", text, re.MULTILINE)
    hard = int(match[1]) if match else resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    yield judge_files(hard, "of the running milld" if match else "here")


def judge_files(hard: int, whose: str) -> Finding:
    advice = "raise it: LimitNOFILE=1048576 in the unit (mill systemd-unit has it), or ulimit -Hn"
    if 0 <= hard < LEAST_FILES:
        return problem("files", f"{hard} open files at most {whose}", advice)
    if 0 <= hard < FEW_FILES:
        return warning("files", f"{hard} open files at most {whose}: enough for a few hundred tasks", advice)
    return ok("files", f"{hard if hard >= 0 else 'any number of'} open files {whose}")


def memory(host: Host) -> Iterator[Finding]:
    text = read(host.proc / "meminfo")
    sizes = {key: int(size) * KIB for key, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    yield from judge_memory(sizes.get("MemTotal", 0), sizes.get("SwapTotal", 0), host.config)


def judge_memory(total: int, swap: int, config: Config) -> Iterator[Finding]:
    shown = f"{format_size(total)} of memory, {format_size(swap) if swap else 'no'} swap"
    if config.memory is not None and config.memory > total:
        yield warning(
            "memory",
            f"--memory offers {format_size(config.memory)}, but there are {format_size(total)}",
            f"offer less: the default keeps {format_size(RESERVE_MEMORY_BYTES)} back",
        )
    elif total < LITTLE_BYTES:
        yield warning("memory", f"{shown}: room for very few tasks", "give the machine more")
    else:
        yield ok("memory", shown)
