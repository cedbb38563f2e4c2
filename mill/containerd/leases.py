"""Leases: what keeps containerd's garbage collection off a half-done pull. Called by `pull`, `load` and `images`."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog
import trio

from mill.containerd import rpcs
from mill.containerd.faults import RpcError, RpcNotFound
from mill.containerd.proto import leases_pb2
from mill.containerd.session import Session
from mill.containerd.together import finishing

NODE_LABEL = "mill.node"
_PURPOSE_LABEL = "mill.lease"
_PURPOSE = "images"
_EXPIRY_LABEL = "containerd.io/gc.expire"
_LIFE_S = 24 * 3600.0  # should nobody ever delete it; longer than a pull may take
_CREATE_TIMEOUT_S = 10.0
_DELETE_TIMEOUT_S = 2.0  # milld may be leaving, and has no more time for a containerd that hangs
_CREATE_PATIENCE_S = 1.0  # for one that nobody wants any more

log = structlog.get_logger()


@asynccontextmanager
async def leased(session: Session, node_id: str, now: Callable[[], float]) -> AsyncGenerator[str, None]:
    """A lease for the length of the block; its id goes with every call that must be protected.

    What only the lease kept is gone when the block has failed; else containerd collects it in its own time.
    """
    expires = datetime.fromtimestamp(now() + _LIFE_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = {_EXPIRY_LABEL: expires, NODE_LABEL: node_id, _PURPOSE_LABEL: _PURPOSE}
    made: list[str] = []
    failed = False

    async def create() -> None:
        request = leases_pb2.CreateRequest(labels=labels)
        created = await session.call(rpcs.LEASES_CREATE, request, timeout_s=_CREATE_TIMEOUT_S)
        made.append(created.lease.id)

    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        # containerd makes up the id: a cancelled call could leave a lease nobody knows
        await finishing(create, within_s=_CREATE_PATIENCE_S)
        yield made[0]
    except Exception:
        failed = True
        raise
    finally:
        for lease in made:
            await _delete(session, lease, sync=failed)


async def sweep(session: Session, node_id: str) -> None:
    """Delete what an earlier milld of this node left. Only at its start: nothing of ours is under way."""
    wanted = f'labels."{NODE_LABEL}"=={node_id},labels."{_PURPOSE_LABEL}"=={_PURPOSE}'
    listed = await session.call(rpcs.LEASES_LIST, leases_pb2.ListRequest(filters=[wanted]))
    for lease in listed.leases:
        log.info("lease of an earlier pull removed", lease=lease.id)
        await _delete(session, lease.id)


async def _delete(session: Session, lease: str, *, sync: bool = False) -> None:
    with trio.CancelScope(shield=True):
        try:
            await session.call(
                rpcs.LEASES_DELETE, leases_pb2.DeleteRequest(id=lease, sync=sync), timeout_s=_DELETE_TIMEOUT_S
            )
        except RpcNotFound:
            pass
        except RpcError as fault:
            log.warning("lease not deleted, it will expire", lease=lease, error=str(fault))
