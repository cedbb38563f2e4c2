"""Every call of the API as a value: what to send and how to read the answer. Pure; `Client` sends them, the CLI too
(`Client.ask` gives the JSON as it came, `Call.decode` the typed value of it).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import attrs

from mill.checks import check_request_key
from mill.convert import from_json, to_json
from mill.errors import FieldError
from mill.model import (
    Draft,
    Image,
    IssuedToken,
    JoinCommand,
    Mount,
    NodeStatus,
    NodeView,
    Publish,
    PullRequest,
    Record,
    RotatedSecret,
    SpawnRequest,
    Stats,
    Status,
    Template,
    TokenRequest,
    TokenView,
)
from mill.units import parse_duration

T = TypeVar("T")
WaitFor = Literal["running", "terminal"]

ROTATE_S = 60.0
"""For all nodes to take a new secret, one after the other."""
LONG_POLL_S = 60.0
"""The longest that the server lets one `wait` last."""


@attrs.frozen
class Call(Generic[T]):
    """One request. `thinks_s`: what the server may take beyond a usual answer; None is without end."""

    method: str
    path: str
    decode: Callable[[Any], T]
    params: tuple[tuple[str, str], ...] = ()
    body: Any = None
    thinks_s: float | None = 0.0
    key: str | None = None
    """Goes along as the Idempotency-Key: the call may be repeated until there is an answer."""


@attrs.frozen
class Spawned:
    """The answer to a spawn: the id resolves from now on, `status` is ``starting`` or ``pulling``."""

    id: str
    address: str
    node: str
    status: Status
    publish: tuple[Publish, ...] = ()


@attrs.frozen
class Page:
    """Some records of a listing; `next` asks for those after them and is None on the last page.

    `partial`: the node was without the majority of its cluster; others may know more, or better.
    """

    tasks: tuple[Record, ...]
    next: str | None = None
    partial: bool = False


class DraftFields(TypedDict, total=False):
    """What a spawn may say, as `mill.model.Draft`; sizes are bytes or text such as ``2G``, durations seconds or ``30m``."""

    image: str
    name: str
    command: Iterable[str]
    args: Iterable[str]
    env: Mapping[str, str]
    cpu: float
    memory: int | str
    timeout: float | str
    pull_timeout: float | str
    port: int
    labels: Mapping[str, str]
    user: str
    workdir: str
    network: str
    publish: Iterable[Publish | Mapping[str, Any]]
    stop_signal: str
    grace: float | str
    pull: str
    mounts: Iterable[Mount | Mapping[str, Any]]
    read_only: bool
    init: bool


def spawn_request(task: str | None, fields: Mapping[str, Any]) -> SpawnRequest:
    """Checked here as the server will; raises `FieldError`."""
    said = {key: _plain(value) for key, value in fields.items() if value is not None}
    if task is None and "image" not in said:
        raise FieldError("image", "is missing: name an image, or a template as the task")
    return from_json(SpawnRequest, said if task is None else {**said, "task": task}, strict=True)


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return to_json(value)


def _said(asked: Draft | TokenRequest) -> dict[str, Any]:
    """Without what was not said, so that an older server never meets a field it does not know."""
    return {key: value for key, value in to_json(asked).items() if value is not None}


def _read(kind: type[T]) -> Callable[[Any], T]:
    return lambda data: from_json(kind, data)


def _list_of(key: str, kind: type[T]) -> Callable[[Any], list[T]]:
    return lambda data: [from_json(kind, item) for item in data[key]]


def _task_path(task_id: str) -> str:
    return f"/v1/tasks/{_segment('id', task_id)}"


def _segment(field: str, text: str) -> str:
    if not text or text in {".", ".."}:
        raise FieldError(field, f"{text!r} is no {field}")
    return quote(text, safe="")


def spawn(request: SpawnRequest, key: str | None = None) -> Call[Spawned]:
    """The same *key* with the same request is the same task for a day. `FieldError` for what is no key."""
    if key is not None:
        check_request_key(key)
    return Call("POST", "/v1/tasks/spawn", _read(Spawned), body=_said(request), key=key)


def tasks(
    *,
    status: Iterable[str] = (),
    label: Iterable[str] = (),
    node: str | None = None,
    template: str | None = None,
    all: bool = False,  # noqa: A002 -- the name that the API gives it
    usage: bool = False,
    limit: int | None = None,
    after: str | None = None,
) -> Call[Page]:
    """One page, newest first; without *all* and *status* only what has not ended."""
    params = [("status", str(one)) for one in status] + [("label", one) for one in label]
    single = {"node": node, "template": template, "after": after}
    params += [(key, value) for key, value in single.items() if value is not None]
    params += [(key, "true") for key, on in (("all", all), ("usage", usage)) if on]
    if limit is not None:
        params.append(("limit", str(limit)))
    return Call("GET", "/v1/tasks", _read(Page), params=tuple(params))


def task(task_id: str) -> Call[Record]:
    return Call("GET", _task_path(task_id), _read(Record))


def wait(task_id: str, until: WaitFor, timeout_s: float) -> Call[Record]:
    """One long poll of at most `LONG_POLL_S`: the record once *until* holds, or as it stands after *timeout_s*."""
    timeout_s = min(max(timeout_s, 0.0), LONG_POLL_S)
    params = (("wait", until), ("timeout", f"{timeout_s:.15g}"))
    return Call("GET", _task_path(task_id), _read(Record), params=params, thinks_s=timeout_s)


def kill(task_id: str, *, signal: str | int | None = None, grace: float | str | None = None) -> Call[Record]:
    params = [("signal", str(signal))] if signal is not None else []
    if grace is not None:
        params.append(("grace", f"{_seconds('grace', grace):.15g}"))
    return Call("DELETE", _task_path(task_id), _read(Record), params=tuple(params))


def _seconds(field: str, value: object) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise FieldError(field, str(error)) from None


def stats(task_id: str) -> Call[Stats]:
    return Call("GET", f"{_task_path(task_id)}/stats", _read(Stats))


EVENTS_PATH = "/v1/events"


def logs_path(task_id: str) -> str:
    return f"{_task_path(task_id)}/logs"


def images(node: str | None = None) -> Call[list[Image]]:
    return Call("GET", "/v1/images", _list_of("images", Image), params=_on(node))


def _on(node: str | None) -> tuple[tuple[str, str], ...]:
    return () if node is None else (("node", node),)


def load_image(name: str | None = None, node: str | None = None) -> Call[list[Image]]:
    """The archive's bytes are the body, which `Client.ask` streams. Unpacking a large image takes its time."""
    params = (*((("name", name),) if name else ()), *_on(node))
    return Call("POST", "/v1/images/load", _list_of("images", Image), params=params, thinks_s=None)


def pull_image(ref: str, pull: str = "always", node: str | None = None) -> Call[Image]:
    """Answered by a stream, which `Client.pull_image` reads; its last line holds the image. Raises `FieldError`."""
    request = from_json(PullRequest, {"image": ref, "pull": pull}, strict=True)
    return Call(
        "POST", "/v1/images/pull", _read(Image), params=_on(node), body=to_json(request), thinks_s=None
    )


def remove_image(ref: str, node: str | None = None) -> Call[None]:
    """Returns when what only this image kept is gone from the disk."""
    path = f"/v1/images/{_segment('ref', ref)}"
    return Call("DELETE", path, lambda _: None, params=_on(node), thinks_s=None)


def templates() -> Call[list[Template]]:
    return Call("GET", "/v1/templates", _list_of("templates", Template))


def template(name: str) -> Call[Template]:
    return Call("GET", _template_path(name), _read(Template))


def put_template(name: str, draft: Draft) -> Call[Template]:
    return Call("PUT", _template_path(name), _read(Template), body=_said(draft))


def delete_template(name: str) -> Call[None]:
    return Call("DELETE", _template_path(name), lambda _: None)


def _template_path(name: str) -> str:
    return f"/v1/templates/{_segment('name', name)}"


def tokens() -> Call[list[TokenView]]:
    return Call("GET", "/v1/tokens", _list_of("tokens", TokenView))


def token_request(scope: str, name: str | None, expires: float | str | None) -> TokenRequest:
    """Out of what people write; `FieldError` names what is wrong."""
    said = {"scope": str(scope), "name": name, "expires": expires}
    return from_json(
        TokenRequest, {key: value for key, value in said.items() if value is not None}, strict=True
    )


def create_token(request: TokenRequest) -> Call[IssuedToken]:
    return Call("POST", "/v1/tokens", _issued, body=_said(request))


def _issued(data: Any) -> IssuedToken:
    return IssuedToken(str(data["token"]), from_json(TokenView, data))


def delete_token(token_id: str) -> Call[None]:
    return Call("DELETE", f"/v1/tokens/{_segment('token', token_id)}", lambda _: None)


def status() -> Call[NodeStatus]:
    return Call("GET", "/v1/status", _read(NodeStatus))


def nodes() -> Call[list[NodeView]]:
    return Call("GET", "/v1/nodes", _list_of("nodes", NodeView))


def drain(node: str) -> Call[NodeView]:
    return Call("POST", f"{_node_path(node)}/drain", _read(NodeView))


def forget_node(node: str) -> Call[NodeView]:
    return Call("DELETE", _node_path(node), _read(NodeView))


def join_command() -> Call[JoinCommand]:
    return Call("GET", "/v1/join-command", _read(JoinCommand))


def rotate_secret() -> Call[RotatedSecret]:
    return Call("POST", "/v1/rotate-secret", _read(RotatedSecret), thinks_s=ROTATE_S)


def undrain(node: str) -> Call[NodeView]:
    return Call("POST", f"{_node_path(node)}/undrain", _read(NodeView))


def _node_path(node: str) -> str:
    return f"/v1/nodes/{_segment('node', node)}"
