"""``/v1/openapi.json``: the API described (OpenAPI 3.1), its schemas made of the same attrs classes that parse requests. Pure.

Each noun's calls are described by its module, in the words of `calls`; `schemas` makes the schemas. What is served and what
is described are held together by tests: every route, parameter, status and answer.
"""

from typing import Any

from mill.api.openapi import images, node, tasks, templates, tokens
from mill.api.openapi.schemas import components

_ABOUT = """\
Mill runs short-lived containers. Every answer that is not a success is a problem of RFC 9457 whose `detail` is one line for
people; where one field or parameter is to blame, `field` names it. Unknown fields and parameters are errors.

Beside what each call lists: a path that leads nowhere is 404, a method that a path does not have 405 (with `Allow`), what is
no HTTP 400, headers that are too long 431, and a transfer coding that is not known 501. Sizes are bytes or `512M`, durations
are seconds or `1h30m`; answers hold bytes and seconds.
"""
_TAGS = {
    "tasks": "Containers that run once, and their output",
    "events": "Changes of the tasks' states",
    "images": "What this node can start without a registry",
    "templates": "Named drafts of tasks",
    "tokens": "Who may use the API",
    "node": "This node",
}


def document(version: str) -> dict[str, Any]:
    """The whole document; *version* is milld's."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Mill",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": said} for name, said in _TAGS.items()],
        "paths": {**tasks.paths(), **images.paths(), **templates.paths(), **tokens.paths(), **node.paths()},
        "components": {
            "schemas": components(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "MILL_TOKEN: that of admin.token, or one of /v1/tokens. A call names the scope that it "
                    "needs: read, spawn or admin, each of which covers those before it",
                }
            },
        },
        "security": [{"token": ["read"]}],
    }
