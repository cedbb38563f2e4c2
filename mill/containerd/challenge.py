"""What a registry's 401 asks for: the ``WWW-Authenticate`` header taken apart. Pure; called by `authorization`.

Grammar: RFC 9110 section 11.6.1; the meaning of realm, service and scope: the distribution project's token specification.
"""

import re
from collections.abc import Iterable, Mapping

import attrs

_ITEM = re.compile(
    r"""[\s,]*(?:
        (?P<key>[A-Za-z0-9_-]+)\s*=\s*(?:"(?P<quoted>(?:\\.|[^"\\])*)"|(?P<bare>[^\s,"]+))
        |(?P<scheme>[A-Za-z][A-Za-z0-9_-]*)
    )""",
    re.VERBOSE,
)
_ESCAPED = re.compile(r"\\(.)")


@attrs.frozen
class Challenge:
    """One way to be let in; `scheme` and the names of `params` in lower case."""

    scheme: str
    params: Mapping[str, str]


def parse(headers: Iterable[str]) -> list[Challenge]:
    """Every challenge of all *headers*, in order. What cannot be read is left out."""
    found: list[Challenge] = []
    for header in headers:
        scheme, params, position = "", dict[str, str](), 0
        while (item := _ITEM.match(header, position)) is not None:
            position = item.end()
            if item["scheme"]:
                if scheme:
                    found.append(Challenge(scheme, params))
                scheme, params = item["scheme"].lower(), {}
            elif scheme:
                quoted = item["quoted"]
                value = item["bare"] if quoted is None else _ESCAPED.sub(r"\1", quoted)
                params[item["key"].lower()] = value
        if scheme:
            found.append(Challenge(scheme, params))
    return found


def best(challenges: Iterable[Challenge]) -> Challenge | None:
    """The one to answer: a token where it is offered, else a name and password."""
    usable = [
        c for c in challenges if c.scheme == "basic" or (c.scheme == "bearer" and c.params.get("realm"))
    ]
    return min(usable, key=lambda c: c.scheme == "basic", default=None)
