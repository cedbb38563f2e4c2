"""The filters of a query, as listings and events take them."""

from mill.api.request import Query
from mill.errors import FieldError
from mill.model import Status
from mill.tasks.filter import Filter


def read_filter(query: Query) -> Filter:
    """By `status` and `label`, which may be repeated, and `template`."""
    statuses = tuple(part for text in query.texts("status") for part in text.split(","))
    for status in statuses:
        if status not in {*Status}:
            raise FieldError("status", f"{status!r} is none of {', '.join(Status)}")
    labels = []
    for text in query.texts("label"):
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise FieldError("label", f"{text!r} is not KEY=VALUE")
        labels.append((key, value))
    return Filter(statuses, tuple(labels), template=query.text("template"))
