"""The tasks that containerd keeps for this node, as their containers carry them: what records are rebuilt from. Called by `daemon`."""

import json

import structlog

from mill.containerd import rpcs
from mill.containerd.container import patiently
from mill.containerd.proto import containers_pb2
from mill.containerd.session import Session
from mill.convert import from_json
from mill.model import Owned, Record, Task

TASK_EXTENSION = "mill.task"

log = structlog.get_logger()


async def kept_tasks(session: Session, node_id: str) -> list[Task]:
    """Each as it was when its container was made: starting. One that cannot be read is told, and left out."""
    request = containers_pb2.ListContainersRequest(filters=[f'labels."mill.node"=={node_id}'])
    answer = await patiently(session, lambda: session.call(rpcs.CONTAINERS_LIST, request))
    return [task for container in answer.containers if (task := _task_of(container)) is not None]


def _task_of(container: containers_pb2.Container) -> Task | None:
    try:
        kept = json.loads(container.extensions[TASK_EXTENSION].value)
        return Task(from_json(Record, kept["record"]), from_json(Owned, kept["owned"]))
    except (ExceptionGroup, ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning("a container's record cannot be read", task=container.id, why=repr(error))
        return None
