"""The calls of the node itself, and of the nodes, described. Pure."""

from typing import Any

from mill.api.openapi.calls import NODE, call, json_of, list_of, maybe_partial
from mill.api.openapi.schemas import TEXT, ref
from mill.model import Scope


def paths() -> dict[str, Any]:
    exposition = {kind: {"schema": TEXT} for kind in ("text/plain", "application/openmetrics-text")}
    health = json_of({"type": "object", "properties": {"status": TEXT}, "required": ["status"]})
    node = {200: json_of(ref("NodeView"))}
    return {
        "/v1/nodes": {"get": call("listNodes", "node", "The nodes", {200: json_of(maybe_partial(list_of("NodeView", "nodes")))})},
        "/v1/nodes/{node}/drain": {
            "post": call("drainNode", "node", "Let no new task in", node, 404, 503, 507, parameters=[NODE], scope=Scope.ADMIN,
                         about="Tasks that run are left to end."),
        },
        "/v1/nodes/{node}/undrain": {
            "post": call("undrainNode", "node", "Let new tasks in again", node, 404, 503, 507, parameters=[NODE], scope=Scope.ADMIN),
        },
        "/v1/nodes/{node}": {
            "delete": call("forgetNode", "node", "Forget a node that will not come back", node, 404, 409, 503, 507, parameters=[NODE],
                           scope=Scope.ADMIN, about="Its tasks are lost. 409: it answers, or is the one that was asked."),
        },
        "/v1/join-command": {
            "get": call("getJoinCommand", "node", "How another node joins", {200: json_of(ref("JoinCommand"))}, 409, scope=Scope.ADMIN,
                        about="409: this node listens for no others."),
        },
        "/v1/rotate-secret": {
            "post": call("rotateSecret", "node", "Change the cluster's secret", {200: json_of(ref("RotatedSecret"))}, 409, 503, scope=Scope.ADMIN,
                         about="On all nodes, while they run. One that was interrupted is gone on with. 409, 503: a node is not there."),
        },
        "/v1/metrics": {"get": call("getMetrics", "node", "Metrics for Prometheus, by Accept", {200: exposition})},
        "/v1/status": {"get": call("getStatus", "node", "The node", {200: json_of(ref("NodeStatus"))})},
        "/v1/openapi.json": {"get": call("getSchema", "node", "This document", {200: json_of({"type": "object"})})},
        "/healthz": {
            "get": call("getHealth", "node", "Liveness", {200: health, 503: health}, scope=None,
                        about="503: containerd does not answer."),
        },
    }  # fmt: skip
