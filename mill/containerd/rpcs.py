"""containerd's methods: for each its path and the messages it takes and gives. Values only; `session` carries them.

Paths are ``/<service>/<method>`` as grpc puts them on the wire. The messages live in `mill.containerd.proto`.
"""

from enum import Enum
from typing import Generic, TypeVar

import attrs
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from mill.containerd.proto import (
    containers_pb2,
    content_pb2,
    diff_pb2,
    events_pb2,
    images_pb2,
    introspection_pb2,
    leases_pb2,
    namespaces_pb2,
    snapshots_pb2,
    tasks_pb2,
    types_pb2,
    version_pb2,
)

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)


class Kind(Enum):
    UNARY = "one request, one answer"
    SERVER_STREAM = "one request, many answers"
    BIDI = "both ways until either ends it"


@attrs.frozen
class Rpc(Generic[Req, Res]):
    path: str
    request: type[Req]
    response: type[Res]
    kind: Kind = Kind.UNARY


_TASKS = "/containerd.services.tasks.v1.Tasks/"
TASKS_CREATE = Rpc(_TASKS + "Create", tasks_pb2.CreateTaskRequest, tasks_pb2.CreateTaskResponse)
TASKS_START = Rpc(_TASKS + "Start", tasks_pb2.StartRequest, tasks_pb2.StartResponse)
TASKS_WAIT = Rpc(_TASKS + "Wait", tasks_pb2.WaitRequest, tasks_pb2.WaitResponse)
TASKS_KILL = Rpc(_TASKS + "Kill", tasks_pb2.KillRequest, Empty)
TASKS_DELETE = Rpc(_TASKS + "Delete", tasks_pb2.DeleteTaskRequest, tasks_pb2.DeleteResponse)
TASKS_GET = Rpc(_TASKS + "Get", tasks_pb2.GetRequest, tasks_pb2.GetResponse)
TASKS_LIST = Rpc(_TASKS + "List", tasks_pb2.ListTasksRequest, tasks_pb2.ListTasksResponse)
TASKS_UPDATE = Rpc(_TASKS + "Update", tasks_pb2.UpdateTaskRequest, Empty)
TASKS_CLOSE_IO = Rpc(_TASKS + "CloseIO", tasks_pb2.CloseIORequest, Empty)
TASKS_LIST_PIDS = Rpc(_TASKS + "ListPids", tasks_pb2.ListPidsRequest, tasks_pb2.ListPidsResponse)

_CONTAINERS = "/containerd.services.containers.v1.Containers/"
CONTAINERS_CREATE = Rpc(
    _CONTAINERS + "Create", containers_pb2.CreateContainerRequest, containers_pb2.CreateContainerResponse
)
CONTAINERS_GET = Rpc(
    _CONTAINERS + "Get", containers_pb2.GetContainerRequest, containers_pb2.GetContainerResponse
)
CONTAINERS_LIST = Rpc(
    _CONTAINERS + "List", containers_pb2.ListContainersRequest, containers_pb2.ListContainersResponse
)
CONTAINERS_UPDATE = Rpc(
    _CONTAINERS + "Update", containers_pb2.UpdateContainerRequest, containers_pb2.UpdateContainerResponse
)
CONTAINERS_DELETE = Rpc(_CONTAINERS + "Delete", containers_pb2.DeleteContainerRequest, Empty)

_SNAPSHOTS = "/containerd.services.snapshots.v1.Snapshots/"
SNAPSHOTS_PREPARE = Rpc(
    _SNAPSHOTS + "Prepare", snapshots_pb2.PrepareSnapshotRequest, snapshots_pb2.PrepareSnapshotResponse
)
SNAPSHOTS_VIEW = Rpc(
    _SNAPSHOTS + "View", snapshots_pb2.ViewSnapshotRequest, snapshots_pb2.ViewSnapshotResponse
)
SNAPSHOTS_MOUNTS = Rpc(_SNAPSHOTS + "Mounts", snapshots_pb2.MountsRequest, snapshots_pb2.MountsResponse)
SNAPSHOTS_COMMIT = Rpc(_SNAPSHOTS + "Commit", snapshots_pb2.CommitSnapshotRequest, Empty)
SNAPSHOTS_REMOVE = Rpc(_SNAPSHOTS + "Remove", snapshots_pb2.RemoveSnapshotRequest, Empty)
SNAPSHOTS_STAT = Rpc(
    _SNAPSHOTS + "Stat", snapshots_pb2.StatSnapshotRequest, snapshots_pb2.StatSnapshotResponse
)
SNAPSHOTS_UPDATE = Rpc(
    _SNAPSHOTS + "Update", snapshots_pb2.UpdateSnapshotRequest, snapshots_pb2.UpdateSnapshotResponse
)
SNAPSHOTS_LIST = Rpc(
    _SNAPSHOTS + "List",
    snapshots_pb2.ListSnapshotsRequest,
    snapshots_pb2.ListSnapshotsResponse,
    Kind.SERVER_STREAM,
)
SNAPSHOTS_USAGE = Rpc(_SNAPSHOTS + "Usage", snapshots_pb2.UsageRequest, snapshots_pb2.UsageResponse)

_CONTENT = "/containerd.services.content.v1.Content/"
CONTENT_INFO = Rpc(_CONTENT + "Info", content_pb2.InfoRequest, content_pb2.InfoResponse)
CONTENT_UPDATE = Rpc(_CONTENT + "Update", content_pb2.UpdateRequest, content_pb2.UpdateResponse)
CONTENT_LIST = Rpc(
    _CONTENT + "List", content_pb2.ListContentRequest, content_pb2.ListContentResponse, Kind.SERVER_STREAM
)
CONTENT_READ = Rpc(
    _CONTENT + "Read", content_pb2.ReadContentRequest, content_pb2.ReadContentResponse, Kind.SERVER_STREAM
)
CONTENT_WRITE = Rpc(
    _CONTENT + "Write", content_pb2.WriteContentRequest, content_pb2.WriteContentResponse, Kind.BIDI
)
CONTENT_DELETE = Rpc(_CONTENT + "Delete", content_pb2.DeleteContentRequest, Empty)
CONTENT_STATUS = Rpc(_CONTENT + "Status", content_pb2.StatusRequest, content_pb2.StatusResponse)
CONTENT_LIST_STATUSES = Rpc(
    _CONTENT + "ListStatuses", content_pb2.ListStatusesRequest, content_pb2.ListStatusesResponse
)
CONTENT_ABORT = Rpc(_CONTENT + "Abort", content_pb2.AbortRequest, Empty)

DIFF_APPLY = Rpc("/containerd.services.diff.v1.Diff/Apply", diff_pb2.ApplyRequest, diff_pb2.ApplyResponse)

_IMAGES = "/containerd.services.images.v1.Images/"
IMAGES_GET = Rpc(_IMAGES + "Get", images_pb2.GetImageRequest, images_pb2.GetImageResponse)
IMAGES_LIST = Rpc(_IMAGES + "List", images_pb2.ListImagesRequest, images_pb2.ListImagesResponse)
IMAGES_CREATE = Rpc(_IMAGES + "Create", images_pb2.CreateImageRequest, images_pb2.CreateImageResponse)
IMAGES_UPDATE = Rpc(_IMAGES + "Update", images_pb2.UpdateImageRequest, images_pb2.UpdateImageResponse)
IMAGES_DELETE = Rpc(_IMAGES + "Delete", images_pb2.DeleteImageRequest, Empty)

_LEASES = "/containerd.services.leases.v1.Leases/"
LEASES_CREATE = Rpc(_LEASES + "Create", leases_pb2.CreateRequest, leases_pb2.CreateResponse)
LEASES_DELETE = Rpc(_LEASES + "Delete", leases_pb2.DeleteRequest, Empty)
LEASES_LIST = Rpc(_LEASES + "List", leases_pb2.ListRequest, leases_pb2.ListResponse)
LEASES_ADD_RESOURCE = Rpc(_LEASES + "AddResource", leases_pb2.AddResourceRequest, Empty)
LEASES_DELETE_RESOURCE = Rpc(_LEASES + "DeleteResource", leases_pb2.DeleteResourceRequest, Empty)
LEASES_LIST_RESOURCES = Rpc(
    _LEASES + "ListResources", leases_pb2.ListResourcesRequest, leases_pb2.ListResourcesResponse
)

_NAMESPACES = "/containerd.services.namespaces.v1.Namespaces/"
NAMESPACES_GET = Rpc(
    _NAMESPACES + "Get", namespaces_pb2.GetNamespaceRequest, namespaces_pb2.GetNamespaceResponse
)
NAMESPACES_LIST = Rpc(
    _NAMESPACES + "List", namespaces_pb2.ListNamespacesRequest, namespaces_pb2.ListNamespacesResponse
)
NAMESPACES_CREATE = Rpc(
    _NAMESPACES + "Create", namespaces_pb2.CreateNamespaceRequest, namespaces_pb2.CreateNamespaceResponse
)
NAMESPACES_DELETE = Rpc(_NAMESPACES + "Delete", namespaces_pb2.DeleteNamespaceRequest, Empty)

EVENTS_SUBSCRIBE = Rpc(
    "/containerd.services.events.v1.Events/Subscribe",
    events_pb2.SubscribeRequest,
    types_pb2.Envelope,
    Kind.SERVER_STREAM,
)

_INTROSPECTION = "/containerd.services.introspection.v1.Introspection/"
INTROSPECTION_PLUGINS = Rpc(
    _INTROSPECTION + "Plugins", introspection_pb2.PluginsRequest, introspection_pb2.PluginsResponse
)
INTROSPECTION_SERVER = Rpc(_INTROSPECTION + "Server", Empty, introspection_pb2.ServerResponse)

VERSION = Rpc("/containerd.services.version.v1.Version/Version", Empty, version_pb2.VersionResponse)
