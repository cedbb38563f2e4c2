"""Errors as answers: ``application/problem+json`` (RFC 9457). The one place where an error becomes a status code."""

import json
from collections.abc import Mapping
from typing import Any

import structlog
from quart import Response
from werkzeug.exceptions import HTTPException

from mill.errors import (
    CallerError,
    Conflict,
    FieldError,
    MillError,
    NoCapacity,
    NodeError,
    NoSpace,
    NotFound,
    RuntimeFault,
    Unauthorized,
    Unavailable,
)

PROBLEM_TYPE = "application/problem+json"

_NO_HTTP = {
    400: ("bad request", "what came is no HTTP/1.1 request that can be understood"),
    431: ("headers too long", "the headers are longer than 16K in all: send fewer or shorter ones"),
    501: ("not implemented", "the body's transfer coding is not known: send it chunked, or with its length"),
}

_BY_SLUG = {kind.slug: kind for kind in (CallerError, NotFound, Conflict, NoCapacity, NoSpace, Unavailable)}

log = structlog.get_logger()


def answer(error: MillError) -> Response:
    """The answer to a caller whose request met *error*."""
    response = _response(problem(error))
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="mill"'  # owed by RFC 9110, section 15.5.2
    if isinstance(error, NodeError):
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def problem(error: MillError) -> dict[str, Any]:
    """*error* as the object of RFC 9457; a stream whose status is out already sends it as one of its own."""
    if isinstance(error, RuntimeFault):  # asked for directly (an image's pull), not a task's end
        return _problem(502, error.slug, error.title, error.message)
    field = error.field if isinstance(error, FieldError) and error.field else None
    return _problem(error.status, error.slug, error.title, str(error), field)


def error_of(said: Mapping[str, Any]) -> MillError:
    """What another node's problem stands for, as an error of this one; the other way round of `problem`."""
    slug, detail = str(said.get("type", "")).rpartition(":")[2], str(said.get("detail", ""))
    field = said.get("field")
    if isinstance(field, str):
        return FieldError(field, detail.removeprefix(f"{field}: "))
    return _BY_SLUG.get(slug, Unavailable)(detail)


def answer_http(error: HTTPException) -> Response:
    """What the framework itself refuses: unknown paths, wrong methods."""
    status = error.code or 500
    slug = (error.name or "error").lower().replace(" ", "-")
    response = _response(_problem(status, slug, (error.name or "error").lower(), error.description or ""))
    for name, value in error.get_headers():
        if name.lower() == "allow":
            response.headers["Allow"] = value
    return response


def answer_bug(error: Exception) -> Response:
    """A bug of ours: the details go to the log, not to the caller."""
    log.error("internal error while answering", exc_info=error)
    detail = "milld failed to answer; its log has the details"
    return _response(_problem(500, "internal", "internal error", detail))


def no_http(status: int) -> dict[str, Any]:
    """What the server refuses before there is a request that a route could answer."""
    title, detail = _NO_HTTP.get(status, _NO_HTTP[400])
    return _problem(status, title.replace(" ", "-"), title, detail)


def needs_tls() -> dict[str, Any]:
    """For who speaks plain HTTP where TLS is spoken."""
    return _problem(400, "needs-tls", "needs TLS", "this port speaks TLS: write https:// before its address")


def _problem(status: int, slug: str, title: str, detail: str, field: str | None = None) -> dict[str, Any]:
    said = {"type": f"urn:mill:problem:{slug}", "title": title, "status": status, "detail": detail}
    return said if field is None else {**said, "field": field}


def _response(said: dict[str, Any]) -> Response:
    return Response(json.dumps(said), status=said["status"], content_type=PROBLEM_TYPE)
