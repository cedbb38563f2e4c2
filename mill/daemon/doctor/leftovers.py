"""The check for leftovers: asks containerd what is labelled with another node's id, and has `nodes` judge it. Reads only."""

from collections.abc import AsyncIterator
from typing import Any

import trio

from mill.containerd import rpcs
from mill.containerd.faults import RpcError
from mill.containerd.leases import NODE_LABEL
from mill.containerd.proto import containers_pb2, leases_pb2, snapshots_pb2
from mill.containerd.session import NAMESPACE, Session, opened
from mill.daemon.doctor import nodes
from mill.daemon.doctor.findings import Finding, Level, ok
from mill.daemon.doctor.host import Host

_LABELLED = f'labels."{NODE_LABEL}"'
_SNAPSHOTTERS = {"overlayfs": "snapshots", "native": "native snapshots"}

RESTART_S = 2.0
"""How long a restart of milld takes, about."""

Labelled = dict[str, dict[str, list[str]]]
"""Names by node id and kind."""


async def leftovers(host: Host) -> list[Finding]:
    """Looked at twice where something is found: a milld that is just being restarted has left nothing."""
    findings = await _look(host)
    if not _harmless(findings):
        await trio.sleep(RESTART_S)
        findings = await _look(host)
    if _harmless(findings):
        findings.append(ok("leftovers", "nothing that another node has left behind"))
    return findings


def _harmless(findings: list[Finding]) -> bool:
    return all(finding.level is Level.OK for finding in findings)


async def _look(host: Host) -> list[Finding]:
    found = host.containerd
    labelled: Labelled = {}
    if found is not None and found.features is not None:
        with opened(found.socket, NAMESPACE) as session:
            async for kind, name, node in _objects(session):
                if node != host.node_id:
                    by_kind = labelled.setdefault(node, {kind: [] for kind in nodes.KINDS})
                    by_kind[kind].append(name)
    there = await trio.to_thread.run_sync(nodes.others, host, labelled, abandon_on_cancel=True)
    groups = host.sys_fs_cgroup / ("pids/mill" if (host.sys_fs_cgroup / "pids").is_dir() else "mill")
    return [nodes.judge(one, found.socket if found else "", groups) for one in there]


async def _objects(session: Session) -> AsyncIterator[tuple[str, str, str]]:
    """(kind, name, node id) of all that carries a node's label. A namespace that is not there yet has nothing."""

    async def asked(*call: Any) -> Any:
        try:
            return await session.call(*call)
        except RpcError as fault:
            if fault.code == "NOT_FOUND":
                return None
            raise

    containers = await asked(rpcs.CONTAINERS_LIST, containers_pb2.ListContainersRequest(filters=[_LABELLED]))
    for one in containers.containers if containers else ():
        yield "containers", one.id, one.labels[NODE_LABEL]
    for snapshotter, kind in _SNAPSHOTTERS.items():
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=snapshotter, filters=[_LABELLED])
        try:
            pages = await session.collect(rpcs.SNAPSHOTS_LIST, request)
        except RpcError:  # a snapshotter that is off
            continue
        for info in (info for page in pages for info in page.info):
            yield kind, info.name, info.labels[NODE_LABEL]
    leases = await asked(rpcs.LEASES_LIST, leases_pb2.ListRequest(filters=[_LABELLED]))
    for lease in leases.leases if leases else ():
        yield "leases", lease.id, lease.labels[NODE_LABEL]
