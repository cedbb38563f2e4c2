"""Answers that are no success, as errors. Pure; called by `connection` only.

Each class is both the specific error that milld raised and a `ProblemError`, so that callers catch at either level.
"""

import json
from collections.abc import Mapping
from typing import Any

from mill import errors
from mill.errors import ProblemError

TYPE_PREFIX = "urn:mill:problem:"


class ForbiddenProblem(ProblemError, errors.Forbidden):
    pass


class NotFoundProblem(ProblemError, errors.NotFound):
    pass


class ConflictProblem(ProblemError, errors.Conflict):
    pass


class TooLargeProblem(ProblemError, errors.TooLarge):
    pass


class UnauthorizedProblem(ProblemError, errors.Unauthorized):
    pass


class CallerProblem(ProblemError, errors.CallerError):
    pass


class NoCapacityProblem(ProblemError, errors.NoCapacity):
    pass


class NoSpaceProblem(ProblemError, errors.NoSpace):
    pass


class UnavailableProblem(ProblemError, errors.Unavailable):
    pass


class FieldProblem(ProblemError, errors.FieldError):
    """A field of ours that the server refused; reads like the `FieldError` of a check made here."""

    field: str

    def __init__(
        self, http_status: int, title: str, detail: str, *, slug: str = "", field: str | None = None
    ) -> None:
        self.field = field or ""
        self.message = detail.removeprefix(f"{self.field}:").strip() or title
        text = f"{self.field}: {self.message}" if self.field else self.message
        errors.CallerError.__init__(self, text)
        self.http_status = http_status
        self.problem = slug
        self.detail = detail


_BY_SLUG: Mapping[str, type[ProblemError]] = {
    errors.FieldError.slug: FieldProblem,
    errors.Unauthorized.slug: UnauthorizedProblem,
    errors.Forbidden.slug: ForbiddenProblem,
    errors.NotFound.slug: NotFoundProblem,
    errors.Conflict.slug: ConflictProblem,
    errors.TooLarge.slug: TooLargeProblem,
    errors.NoCapacity.slug: NoCapacityProblem,
    errors.NoSpace.slug: NoSpaceProblem,
    errors.Unavailable.slug: UnavailableProblem,
}
_BY_STATUS: Mapping[int, type[ProblemError]] = {
    401: UnauthorizedProblem,
    403: ForbiddenProblem,
    404: NotFoundProblem,
    409: ConflictProblem,
    413: TooLargeProblem,
    503: UnavailableProblem,
    507: NoSpaceProblem,
}
_CALLERS_FAULT = range(400, 500)


def problem(http_status: int, body: bytes, url: str, token_hint: str) -> ProblemError:
    """The error that an answer stands for; one that is no problem+json is told as the stranger's it is."""
    said = _parse(body)
    if said is None:
        detail = f"{url} answered {http_status} without saying why; is it milld?"
        return _class_for("", http_status)(http_status, f"HTTP {http_status}", detail)
    return from_object(said, http_status, token_hint)


def from_object(said: Mapping[str, Any], http_status: int, token_hint: str = "") -> ProblemError:
    """The error that a problem's object stands for, of an answer or of the end of a stream."""
    slug = _text(said, "type").removeprefix(TYPE_PREFIX)
    field = said.get("field")
    cls = _class_for(slug, http_status)
    detail = _text(said, "detail")
    title = _text(said, "title") or f"HTTP {http_status}"
    if cls is UnauthorizedProblem:
        detail = f"{detail or title}; {token_hint}"
    return cls(http_status, title, detail, slug=slug, field=field if isinstance(field, str) else None)


def _class_for(slug: str, http_status: int) -> type[ProblemError]:
    fallback = CallerProblem if http_status in _CALLERS_FAULT else ProblemError
    return _BY_SLUG.get(slug) or _BY_STATUS.get(http_status, fallback)


def _parse(body: bytes) -> Mapping[str, Any] | None:
    try:
        said = json.loads(body)
    except ValueError:
        return None
    return said if isinstance(said, dict) and ("title" in said or "detail" in said) else None


def _text(said: Mapping[str, Any], key: str) -> str:
    """One line, whatever the server sent."""
    value = said.get(key)
    return " ".join(value.split()) if isinstance(value, str) else ""
