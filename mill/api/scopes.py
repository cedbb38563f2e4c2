"""Which scope each route wants: declared beside it, checked here. A route that declares none keeps the application from being made."""

from collections.abc import Callable
from typing import Any, TypeVar

from quart import Quart

from mill.errors import Forbidden
from mill.model import Scope, TokenView

V = TypeVar("V", bound=Callable[..., Any])

_SCOPE = "mill_scope"


def needs(scope: Scope) -> Callable[[V], V]:
    """Below the route's own decorator: only a token whose scope covers *scope* comes in."""
    return _declaring(scope)


def public(view: V) -> V:
    """Answered without a token."""
    return _declaring(None)(view)


def _declaring(scope: Scope | None) -> Callable[[V], V]:
    def declare(view: V) -> V:
        setattr(view, _SCOPE, scope)
        return view

    return declare


def scope_of(app: Quart, endpoint: str | None, path: str) -> Scope | None:
    """What a request to *endpoint* needs; None for a public one, and for a method that a public *path* does not have.

    What leads nowhere needs any token, as `read` says.
    """
    view = None if endpoint is None else app.view_functions.get(endpoint)
    if view is not None:
        scope: Scope | None = getattr(view, _SCOPE)
        return scope
    return None if path.rstrip("/") in _public_paths(app) else Scope.READ


def _public_paths(app: Quart) -> set[str]:
    return {
        rule.rule
        for rule in app.url_map.iter_rules()
        if getattr(app.view_functions.get(rule.endpoint), _SCOPE, Scope.READ) is None
    }


def check_declared(app: Quart) -> None:
    for endpoint, view in app.view_functions.items():
        if not hasattr(view, _SCOPE):
            raise TypeError(f"the route {endpoint} declares no scope")


def check(token: TokenView, needed: Scope) -> None:
    """`Forbidden` unless *token* reaches so far."""
    if not token.scope.covers(needed):
        raise Forbidden(
            f"the token {token.name} has the scope {token.scope}, and this needs {needed}: "
            f"an admin makes one by 'mill tokens create --scope {needed}'"
        )
