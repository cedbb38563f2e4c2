"""The calls of tokens, described. Pure."""

from typing import Any

from mill.api.openapi.calls import TOKEN, call, json_of, list_of
from mill.api.openapi.schemas import TEXT, ref
from mill.model import Scope


def paths() -> dict[str, Any]:
    secret = {
        "type": "object",
        "properties": {"token": {**TEXT, "description": "told this once"}},
        "required": ["token"],
    }
    issued = json_of({"allOf": [ref("TokenView"), secret]})
    return {
        "/v1/tokens": {
            "get": call("listTokens", "tokens", "The tokens, not what opens anything", {200: json_of(list_of("TokenView", "tokens"))},
                        scope=Scope.ADMIN),
            "post": call("createToken", "tokens", "Make a token", {201: issued}, 409, 413, 503, 507, scope=Scope.ADMIN,
                         about="409: there are too many.", body=json_of(ref("TokenRequest"))),
        },
        "/v1/tokens/{id}": {
            "delete": call("deleteToken", "tokens", "Revoke a token", {204: None}, 404, 409, 503, 507, scope=Scope.ADMIN,
                           about="409: the one in admin.token, which goes with that file.", parameters=[TOKEN]),
        },
    }  # fmt: skip
