"""All checks on one host: at once, each with its own time, none able to spoil the others. Called by `__main__`."""

from collections.abc import Awaitable, Callable, Iterable, Sequence

import attrs
import trio

from mill.daemon.doctor import (
    cgroups,
    clock,
    containerd,
    kernel,
    leftovers,
    limits,
    mesh,
    milld,
    network,
    storage,
)
from mill.daemon.doctor.findings import Finding, warning
from mill.daemon.doctor.host import Host

CHECK_S = 20.0
"""For one check. Usual: milliseconds; a filesystem or a socket that hangs must not hang doctor."""


@attrs.frozen
class Check:
    """One subject. `unprivileged`: those who are not root see enough for a true answer."""

    name: str
    look: Callable[[Host], Awaitable[Iterable[Finding]]]
    unprivileged: bool = False


def threaded(look: Callable[[Host], Iterable[Finding]]) -> Callable[[Host], Awaitable[Iterable[Finding]]]:
    """A check that blocks, in a thread that is left behind if it hangs."""

    async def call(host: Host) -> Iterable[Finding]:
        return await trio.to_thread.run_sync(lambda: list(look(host)), abandon_on_cancel=True)

    return call


CHECKS: Sequence[Check] = (
    Check("root", threaded(limits.root), unprivileged=True),
    Check("milld", threaded(milld.milld)),
    Check("node", threaded(milld.identity)),
    Check("data", threaded(storage.data_dir)),
    Check("disk", threaded(storage.disk), unprivileged=True),
    Check("containerd", threaded(containerd.containerd)),
    Check("runtime", threaded(containerd.runtime), unprivileged=True),
    Check("overlayfs", threaded(storage.overlay)),
    Check("cgroups", threaded(cgroups.cgroups)),
    Check("kernel", threaded(kernel.kernel), unprivileged=True),
    Check("seccomp", threaded(kernel.filter_), unprivileged=True),
    Check("nftables", threaded(network.nftables)),
    Check("mesh", threaded(mesh.kernel)),
    Check("forwarding", threaded(mesh.forwarding)),
    Check("routes", threaded(mesh.routes), unprivileged=True),
    Check("firewall", threaded(mesh.firewall)),
    Check("ports", threaded(network.ports)),
    Check("clock", threaded(clock.clock), unprivileged=True),
    Check("files", threaded(limits.files), unprivileged=True),
    Check("memory", threaded(limits.memory), unprivileged=True),
    Check("leftovers", leftovers.leftovers),
)


async def examine(host: Host, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """What every check found, in their order."""
    findings: list[list[Finding]] = [[] for _ in checks]

    async def one(index: int, check: Check, seen: Host) -> None:
        findings[index] = await guarded(check, seen)

    first: list[Finding] = []
    if host.euid == 0:
        host, first = await _with_containerd(host)
    async with trio.open_nursery() as nursery:
        for index, check in enumerate(checks):
            if host.euid == 0 or check.unprivileged:
                nursery.start_soon(one, index, check, host)
    return [*first, *(finding for found in findings for finding in found)]


async def _with_containerd(host: Host) -> tuple[Host, list[Finding]]:
    """*host* with the containerd that it has, which several checks need."""
    reached = host

    async def look(host: Host) -> Iterable[Finding]:
        nonlocal reached
        reached = attrs.evolve(host, containerd=await containerd.reach(host))
        return ()

    findings = await guarded(Check("containerd", look), host)
    return reached, findings


async def guarded(check: Check, host: Host) -> list[Finding]:
    """What it finds; if it hangs or breaks, that."""
    try:
        with trio.fail_after(CHECK_S):
            return list(await check.look(host))
    except trio.TooSlowError:
        return [
            warning(
                check.name, f"could not be checked within {CHECK_S:g} s", "something hangs there: see dmesg"
            )
        ]
    except Exception as error:  # noqa: BLE001 -- the top of one check: a host is odd in more ways than we know
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return [warning(check.name, f"could not be checked: {text}", "please report this")]
