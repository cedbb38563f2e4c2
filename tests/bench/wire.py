"""HTTP to a node with as little of its own as can be: what a bench measures is the node, not a client library.

A whole client library takes as long for two requests as milld does, on the cores that containerd starts the container with.
"""

import http.client
import json
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import attrs


@attrs.frozen
class Answer:
    status_code: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Wire:
    """One connection that is kept open; as a context manager it is closed at the end. A request waits *timeout_s* at most."""

    def __init__(self, base_url: str, token: str | None = None, *, timeout_s: float = 60) -> None:
        parts = urlsplit(base_url)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout_s)
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, path: str, params: dict[str, Any] | None = None) -> Answer:
        return self._ask("GET", path, params)

    def delete(self, path: str, params: dict[str, Any] | None = None) -> Answer:
        return self._ask("DELETE", path, params)

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        return self._ask("POST", path, None, json.dumps(body).encode())

    def _ask(
        self, method: str, path: str, params: dict[str, Any] | None, body: bytes | None = None
    ) -> Answer:
        target = f"{path}?{urlencode(params)}" if params else path
        self._connection.request(method, target, body, self._headers)
        answer = self._connection.getresponse()
        return Answer(answer.status, answer.read().decode())
