"""What the kernel must be able to do, and the seccomp profile. Each feature is tried, not read off a version."""

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mill.containerd import seccomp
from mill.containerd.oci import platform_of
from mill.containerd.rootfs import open_in_root
from mill.containerd.spec import CAPABILITIES
from mill.daemon.doctor.findings import Finding, ok, problem, warning
from mill.daemon.doctor.host import Host, read

NAMESPACES = ("mnt", "pid", "ipc", "uts", "net")
PROFILE_ADVICE = (
    "apt-get install golang-github-containers-common, or put a profile at /etc/containers/seccomp.json"
)


def kernel(host: Host) -> Iterator[Finding]:
    missing = [name for name in NAMESPACES if not (host.proc / "self" / "ns" / name).exists()]
    yield from judge(platform.release(), missing, openat2=_has_openat2(), pidfd=_has_pidfd())


def judge(release: str, missing: list[str], *, openat2: bool, pidfd: bool) -> Iterator[Finding]:
    if missing:
        yield problem(
            "kernel", f"{release}: without the namespaces {', '.join(missing)}", "boot a kernel that has them"
        )
    for name, there, since in (("openat2", openat2, "5.6"), ("pidfd_open", pidfd, "5.3")):
        if not there:
            yield problem(
                "kernel",
                f"{release}: the call {name} fails",
                f"boot Linux {since} or later; inside of a container, allow the call in its seccomp profile",
            )
    if not missing and openat2 and pidfd:
        yield ok("kernel", f"{release}: namespaces, openat2, pidfd")


def _has_openat2() -> bool:
    with suppress(OSError):
        base = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = open_in_root(base, ".")
        finally:
            os.close(base)
        if found is not None:
            os.close(found)
            return True
    return False


def _has_pidfd() -> bool:
    with suppress(OSError):
        os.close(os.pidfd_open(os.getpid()))
        return True
    return False


def filter_(host: Host) -> Iterator[Finding]:
    """The seccomp filter that tasks get."""
    architecture = platform_of(platform.machine()).architecture
    chosen = next(
        (path for path in seccomp.PROFILE_PATHS if seccomp.load(architecture, CAPABILITIES, [path])), None
    )
    broken = [path for path in seccomp.PROFILE_PATHS if path.exists() and path != chosen]
    supported = "Seccomp:" in read(host.proc / "self" / "status")
    yield from judge_filter(chosen, broken, supported=supported)


def judge_filter(chosen: Path | None, broken: list[Path], *, supported: bool) -> Iterator[Finding]:
    """*broken* are profiles that are there and not taken; those after *chosen* are merely not needed."""
    order = list(seccomp.PROFILE_PATHS)
    for path in broken:
        if chosen is None or order.index(path) < order.index(chosen):
            yield warning("seccomp", f"{path} is no profile that can be read", "mend it, or remove it")
    if chosen is None:
        yield warning("seccomp", "no profile: tasks may make any system call", PROFILE_ADVICE)
    elif not supported:
        yield problem(
            "seccomp",
            f"the kernel has no seccomp, but {chosen} asks for it",
            "boot a kernel that has it (CONFIG_SECCOMP_FILTER)",
        )
    else:
        yield ok("seccomp", str(chosen))
