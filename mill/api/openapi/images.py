"""The calls of images, described. Pure."""

from typing import Any

from mill.api.openapi.calls import TASK, call, events_of, json_of, lines_of, list_of, query_parameter
from mill.api.openapi.schemas import TEXT, ref
from mill.model import Scope

_FAULTS = (502, 503, 504)
"""What containerd can make of any of them."""
_IMAGE = {
    **TASK,
    "name": "ref",
    "schema": {**TEXT, "minLength": 1},
    "example": "docker.io/library/busybox:latest",
    "description": "an image's name, with or without its slashes quoted",
}
_NODE = [query_parameter("node", {**TEXT, "description": "a node's name or id; else the one that is asked"})]


def paths() -> dict[str, Any]:
    images = {200: json_of(list_of("Image", "images"))}
    archive = {"application/octet-stream": {"schema": {**TEXT, "format": "binary"}}}
    named = query_parameter("name", {**TEXT, "description": "for an archive that names no image"})
    return {
        "/v1/images": {"get": call("listImages", "images", "The images of a node", images, 404, 409, *_FAULTS,
                                       parameters=_NODE)},
        "/v1/images/load": {
            "post": call("loadImages", "images", "Load an archive", images, 404, 409, 413, 507, *_FAULTS,
                         about="As `docker save` or an OCI layout in a tar makes it, compressed or not.",
                         parameters=[named, *_NODE], body=archive, scope=Scope.ADMIN),
        },
        "/v1/images/pull": {"post": _pull()},
        "/v1/images/{ref}": {
            "delete": call("removeImage", "images", "Remove an image that no task uses", {204: None}, 404, 409, *_FAULTS,
                           parameters=[_IMAGE, *_NODE], scope=Scope.ADMIN),
        },
    }  # fmt: skip


def _pull() -> dict[str, Any]:
    news = ref("PullNews")
    return call(
        "pullImage", "images", "Pull an image", {200: {"application/x-ndjson": lines_of(news), "text/event-stream": events_of(news)}}, 404, 409, 413, 503,
        about="By the Accept header: an object a line, or server-sent events named `progress`, `image` and `error`. The "
        "status is sent before the pull begins: what ends it is told by the last line.",
        parameters=_NODE, body=json_of(ref("PullRequest")), scope=Scope.SPAWN,
    )  # fmt: skip
