"""The calls of templates, described. Pure."""

from typing import Any

from mill.api.openapi.calls import NEW_TEMPLATE, TEMPLATE, call, json_of, list_of
from mill.api.openapi.schemas import ref
from mill.model import Scope


def paths() -> dict[str, Any]:
    template = json_of(ref("Template"))
    return {
        "/v1/templates": {
            "get": call("listTemplates", "templates", "The templates", {200: json_of(list_of("Template", "templates"))}),
        },
        "/v1/templates/{name}": {
            "get": call("getTemplate", "templates", "One template", {200: template}, 404, parameters=[TEMPLATE]),
            "put": call("putTemplate", "templates", "Make or change a template", {200: template}, 409, 413, 503, 507,
                        about="409: the node's file defines it.", parameters=[NEW_TEMPLATE], body=json_of(ref("Draft")),
                        scope=Scope.ADMIN),
            "delete": call("deleteTemplate", "templates", "Remove a template", {204: None}, 404, 409, 503, 507,
                           about="409: the node's file defines it.", parameters=[TEMPLATE], scope=Scope.ADMIN),
        },
    }  # fmt: skip
