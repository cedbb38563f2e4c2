"""What this host is and has: its name, its address, its cores and memory. Reads /proc once at the start."""

import os
import socket
from pathlib import Path

from mill import checks
from mill.config import RESERVE_CPU, RESERVE_MEMORY_BYTES, Config
from mill.model import Resources
from mill.units import KIB


def name_of(config: Config) -> str:
    """The node's name: as configured, or the host's first label."""
    if config.name is not None:
        return config.name
    host = socket.gethostname().split(".")[0].lower()
    return host if checks.is_label(host, 63) else "node"


def names() -> tuple[str, ...]:
    """What the host calls itself, whole and without its domain, where that is a name that a certificate can hold."""
    whole = socket.gethostname().lower()
    found = (whole, whole.split(".")[0])
    return tuple(name for name in found if checks.is_host_name(name))


def capacity_of(config: Config) -> Resources:
    """What the node offers: as configured, or what it has less a reserve for milld and containerd."""
    cores = len(os.sched_getaffinity(0))
    cpu = config.cpu if config.cpu is not None else max(checks.LEAST_CPU, cores - RESERVE_CPU)
    if config.memory is not None:
        return Resources(cpu, config.memory)
    total = total_memory()
    return Resources(cpu, max(total - RESERVE_MEMORY_BYTES, total // 2))


def total_memory() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * KIB
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def address_of(config: Config) -> str:
    """The IP that others reach this node by: as configured, or that of the way to a node to join, or of the route out, or loopback."""
    if config.advertise is not None:
        return config.advertise
    for target in (*config.join, _ELSEWHERE):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(target)  # sends nothing, it only asks the routing table
                return str(probe.getsockname()[0])
            except OSError:
                continue
    return "127.0.0.1"


_ELSEWHERE = ("192.0.2.1", 9)
"""Nobody's address (RFC 5737), beyond every link."""
