"""containerd, its shim and the OCI runtime: there, of a version that is supported, and answering."""

import re
from collections.abc import Iterator

import attrs

from mill.containerd.embedded import SYSTEM_SOCKET
from mill.containerd.endpoint import check_listens
from mill.containerd.faults import RpcError
from mill.containerd.place import Place
from mill.containerd.session import FIRST_ANSWER_TIMEOUT_S, NAMESPACE, Features, opened
from mill.daemon.doctor.findings import Finding, ok, problem, warning
from mill.daemon.doctor.host import Containerd, Host
from mill.errors import SetupError

INSTALL = "apt-get install containerd runc"
LEAST, MOST = (1, 6), (2, 99)
LEAST_RUNC = (1, 0)
"""The first one that knows cgroup v2 to the full."""


# -- which one, and what it is --------------------------------------------------------------------------------------


async def reach(host: Host) -> Containerd:
    """The containerd that a milld with this configuration would use, and whether it answers."""
    wanted = host.config.containerd
    own = Place.under(host.data_dir).socket
    if wanted == "embedded":
        return await _ask(own, embedded=True)
    if wanted != "auto":
        return await _ask(wanted, embedded=False)
    system = await _ask(SYSTEM_SOCKET, embedded=False)
    if system.features is not None:
        return system
    return attrs.evolve(await _ask(own, embedded=True), fault=system.fault)


async def _ask(socket: str, *, embedded: bool) -> Containerd:
    try:
        check_listens(socket)
    except SetupError as error:
        return Containerd(socket, embedded, fault=str(error))
    with opened(socket, NAMESPACE) as session:
        try:
            return Containerd(socket, embedded, await session.learn(timeout_s=FIRST_ANSWER_TIMEOUT_S))
        except RpcError as fault:
            why = f"what listens there is not containerd, or hangs ({fault.message})"
            return Containerd(socket, embedded, fault=f"{socket}: {why}")


def containerd(host: Host) -> Iterator[Finding]:
    found = host.containerd
    if found is None:
        return  # the look itself failed, and said so
    if found.features is not None:
        whose = "milld's own" if found.embedded else found.socket
        yield judge_version(found.features.version, whose)
        yield from judge_features(found.features)
        return
    if not found.embedded:
        yield problem(
            "containerd", found.fault, "start it (systemctl start containerd), or use --containerd embedded"
        )
        return
    binary = host.which("containerd")
    if binary is None:
        yield problem("containerd", "not installed: no containerd in PATH, and none answers", INSTALL)
        return
    version = host.output(binary, "--version")
    if version is None:
        yield problem("containerd", f"{binary} does not run", f"see why: {binary} --version")
        return
    yield judge_version(version, f"{binary}, which milld starts as its own")
    if host.config.containerd == "auto" and "not exist" not in found.fault:
        yield warning(
            "containerd",
            f"the system's does not answer: {found.fault}",
            "milld starts its own instead; say --containerd embedded if that is meant, else systemctl restart containerd",
        )


def judge_version(text: str, whose: str) -> Finding:
    """*text* as containerd prints or answers it."""
    number = version_of(text)
    if number is None:
        return warning(
            "containerd", f"{whose}: unknown version {text.strip()!r}", "use containerd 1.6, 1.7 or 2.x"
        )
    shown = f"{'.'.join(map(str, number))} ({whose})"
    if number[:2] < LEAST:
        return problem("containerd", f"{shown} is too old", "use containerd 1.6, 1.7 or 2.x")
    if number[:2] > MOST:
        return warning("containerd", f"{shown} is newer than what milld was tried on", "use 1.6, 1.7 or 2.x")
    return ok("containerd", shown)


def judge_features(features: Features) -> Iterator[Finding]:
    if not features.runs_tasks:
        yield problem(
            "containerd",
            "its task service is off or has failed: it runs no containers",
            "see its log (journalctl -u containerd) and disabled_plugins in /etc/containerd/config.toml",
        )


def version_of(text: str) -> tuple[int, ...] | None:
    """The first dotted number: ``1.6.20~ds1`` is (1, 6, 20)."""
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in match.groups() if part is not None) if match else None


# -- what it runs ---------------------------------------------------------------------------------------------------


def runtime(host: Host) -> Iterator[Finding]:
    name = host.config.runtime
    shim = "containerd-shim-runsc-v1" if name == "runsc" else "containerd-shim-runc-v2"
    if host.which(shim) is None:
        yield problem("runtime", f"containerd's shim {shim} is not in PATH", "apt-get install containerd")
    binary = host.which(name)
    if binary is None:
        yield problem(
            "runtime",
            f"the OCI runtime {name} is not installed",
            f"apt-get install {name}, or name another by --runtime",
        )
        return
    version = host.output(binary, "--version")
    if version is None:
        yield problem("runtime", f"{binary} does not run", f"see why: {binary} --version")
        return
    yield judge_runtime(binary, version)


def judge_runtime(binary: str, version: str) -> Finding:
    number = version_of(version)
    first = " ".join(version.split("\n", 1)[0].split()) or "no version"
    if number is not None and version.startswith("runc ") and number[:2] < LEAST_RUNC:
        return warning("runtime", f"{first} ({binary}) is old", "upgrade it: apt-get install runc")
    return ok("runtime", f"{first} ({binary})")
