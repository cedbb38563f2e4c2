"""The calls of the node itself, described. Pure."""

from typing import Any

from mill.api.openapi.calls import call, json_of
from mill.api.openapi.schemas import TEXT, ref


def paths() -> dict[str, Any]:
    exposition = {kind: {"schema": TEXT} for kind in ("text/plain", "application/openmetrics-text")}
    health = json_of({"type": "object", "properties": {"status": TEXT}, "required": ["status"]})
    return {
        "/v1/metrics": {"get": call("getMetrics", "node", "Metrics for Prometheus, by Accept", {200: exposition})},
        "/v1/status": {"get": call("getStatus", "node", "The node", {200: json_of(ref("NodeStatus"))})},
        "/v1/openapi.json": {"get": call("getSchema", "node", "This document", {200: json_of({"type": "object"})})},
        "/healthz": {
            "get": call("getHealth", "node", "Liveness", {200: health, 503: health}, public=True,
                        about="503: containerd does not answer."),
        },
    }  # fmt: skip
