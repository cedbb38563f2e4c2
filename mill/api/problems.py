"""Errors as answers: ``application/problem+json`` (RFC 9457). The one place where an error becomes a status code."""

import json

import structlog
from quart import Response
from werkzeug.exceptions import HTTPException

from mill.errors import FieldError, MillError, NodeError, RuntimeFault, Unauthorized

PROBLEM_TYPE = "application/problem+json"

log = structlog.get_logger()


def answer(error: MillError) -> Response:
    """The answer to a caller whose request met *error*."""
    if isinstance(error, RuntimeFault):  # asked for directly (an image's load), not a task's end
        return _response(502, error.slug, error.title, error.message)
    field = error.field if isinstance(error, FieldError) and error.field else None
    response = _response(error.status, error.slug, error.title, str(error), field)
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="mill"'  # owed by RFC 9110, section 15.5.2
    if isinstance(error, NodeError):
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def answer_http(error: HTTPException) -> Response:
    """What the framework itself refuses: unknown paths, wrong methods."""
    status = error.code or 500
    slug = (error.name or "error").lower().replace(" ", "-")
    response = _response(status, slug, (error.name or "error").lower(), error.description or "")
    for name, value in error.get_headers():
        if name.lower() == "allow":
            response.headers["Allow"] = value
    return response


def answer_bug(error: Exception) -> Response:
    """A bug of ours: the details go to the log, not to the caller."""
    log.error("internal error while answering", exc_info=error)
    return _response(500, "internal", "internal error", "milld failed to answer; its log has the details")


def _response(status: int, slug: str, title: str, detail: str, field: str | None = None) -> Response:
    said = {"type": f"urn:mill:problem:{slug}", "title": title, "status": status, "detail": detail}
    if field is not None:
        said["field"] = field
    return Response(json.dumps(said), status=status, content_type=PROBLEM_TYPE)
