"""The fewest containerd calls that start a container, made back to back with a plain blocking channel: what Mill is held against.

Prepare, Containers.Create, Tasks.Create, Wait opened, Start, with the OCI spec, the runtime options and the two FIFOs that
milld itself used for a model task. No trio, no database, no API. Called by the benches only.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from mill.containerd import rpcs
from mill.containerd.proto import containers_pb2, snapshots_pb2, tasks_pb2

METADATA = [("containerd-namespace", "mill")]
CALL_TIMEOUT_S = 30.0
SIGKILL = 9
CGROUP = "/mill/bench"


class Raw:
    """Starts and removes copies of one *model* container of milld's, one at a time."""

    def __init__(self, socket: Path, model: str, folder: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        self._calls: dict[str, Any] = {}
        self._folder = folder
        folder.mkdir(parents=True)
        request = containers_pb2.GetContainerRequest(id=model)
        self.model = self.call(rpcs.CONTAINERS_GET, request).container
        stat = snapshots_pb2.StatSnapshotRequest(
            snapshotter=self.model.snapshotter, key=self.model.snapshot_key
        )
        self.image_snapshot = self.call(rpcs.SNAPSHOTS_STAT, stat).info.parent

    def method(self, rpc: rpcs.Rpc[Any, Any]) -> Any:
        if rpc.path not in self._calls:
            self._calls[rpc.path] = self._channel.unary_unary(
                rpc.path,
                request_serializer=rpc.request.SerializeToString,
                response_deserializer=rpc.response.FromString,
            )
        return self._calls[rpc.path]

    def call(self, rpc: rpcs.Rpc[Any, Any], request: Message) -> Any:
        return self.method(rpc)(request, metadata=METADATA, timeout=CALL_TIMEOUT_S)

    def spec(self, id_: str) -> AnyMessage:
        """milld's own for the model task, in a control group of its own."""
        spec = json.loads(self.model.spec.value)
        spec["linux"]["cgroupsPath"] = f"{CGROUP}/{id_}"
        return AnyMessage(type_url=self.model.spec.type_url, value=json.dumps(spec).encode())

    def start(self, id_: str) -> float:
        """Seconds from the first call until the container runs."""
        began = time.perf_counter()
        mounts = self.call(
            rpcs.SNAPSHOTS_PREPARE,
            snapshots_pb2.PrepareSnapshotRequest(
                snapshotter=self.model.snapshotter, key=id_, parent=self.image_snapshot,
                labels={"containerd.io/gc.root": "bench"},
            ),
        ).mounts  # fmt: skip
        container = containers_pb2.Container(
            id=id_, image=self.model.image, runtime=self.model.runtime, spec=self.spec(id_),
            snapshotter=self.model.snapshotter, snapshot_key=id_,
        )  # fmt: skip
        self.call(rpcs.CONTAINERS_CREATE, containers_pb2.CreateContainerRequest(container=container))
        pipes = [self._folder / f"{id_}.{stream}" for stream in ("out", "err")]
        readers = []
        for pipe in pipes:
            os.mkfifo(pipe)
            readers.append(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        self.call(
            rpcs.TASKS_CREATE,
            tasks_pb2.CreateTaskRequest(
                container_id=id_, rootfs=mounts, stdout=str(pipes[0]), stderr=str(pipes[1]),
                options=self.model.runtime.options,
            ),
        )  # fmt: skip
        self.exit = self.method(rpcs.TASKS_WAIT).future(
            tasks_pb2.WaitRequest(container_id=id_), metadata=METADATA
        )
        self.call(rpcs.TASKS_START, tasks_pb2.StartRequest(container_id=id_))
        took_s = time.perf_counter() - began
        for reader in readers:
            os.close(reader)
        return took_s

    def remove(self, id_: str) -> None:
        """Kill it and take everything of it away; not part of any measurement."""
        self.call(rpcs.TASKS_KILL, tasks_pb2.KillRequest(container_id=id_, signal=SIGKILL, all=True))
        self.exit.result(timeout=CALL_TIMEOUT_S)
        self.call(rpcs.TASKS_DELETE, tasks_pb2.DeleteTaskRequest(container_id=id_))
        self.call(rpcs.CONTAINERS_DELETE, containers_pb2.DeleteContainerRequest(id=id_))
        with contextlib.suppress(grpc.RpcError):  # containerd's garbage collector may have been first
            self.call(
                rpcs.SNAPSHOTS_REMOVE,
                snapshots_pb2.RemoveSnapshotRequest(snapshotter=self.model.snapshotter, key=id_),
            )
        for pipe in self._folder.glob(f"{id_}.*"):
            pipe.unlink()

    def wait_gone(self, id_: str) -> None:
        """Until milld has cleaned up after *id_*, so that its cleaning is in nobody's measurement."""
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=self.model.snapshotter, key=id_)
        with contextlib.suppress(grpc.RpcError):
            while True:
                self.call(rpcs.SNAPSHOTS_STAT, request)
                time.sleep(0.002)

    def close(self) -> None:
        self._channel.close()
        for group in Path("/sys/fs/cgroup").glob(f"**{CGROUP}"):
            with contextlib.suppress(OSError):
                group.rmdir()
