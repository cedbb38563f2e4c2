"""All moods of `moods.ROWS` behind one registry that wants a login, a blob store elsewhere, and a node that pulls every row.

Rows are spawned at once, so that the whole table takes as long as its slowest row. Called by `test_registries`.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import attrs

from tests.node import Node
from tests.scenarios.bad_registry import Answer, Asked, Server, serving
from tests.scenarios.moods import ROWS, TOKEN, Shop, header, open_shop

USERNAME, PASSWORD = "buyer", "hush-hush:pass"
BASIC = header(USERNAME, PASSWORD)
SMALL = {"cpu": 0.1, "memory": "32M"}


@attrs.define(slots=False)
class Market:
    """`registry` asks every row for its login; `store` keeps blobs for those that send there, and is told no secret."""

    registry: Server = attrs.field(init=False)
    store: Server = attrs.field(init=False)
    before: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    lock: threading.Lock = attrs.field(factory=threading.Lock)

    @cached_property
    def shops(self) -> dict[str, Shop]:
        return {name: open_shop(name, self.store.host) for name in ROWS}

    def image(self, name: str) -> str:
        return f"{self.registry.host}/{name}/app{ROWS[name].reference(self.shops[name])}"

    def answer(self, asked: Asked) -> Answer:
        if asked.path.startswith("/token/"):
            return self._token(asked.path.partition("?")[0].rpartition("/")[2], asked)
        name = asked.path.split("/")[2]
        refused = self._login(name, asked)
        if refused is not None:
            return refused
        with self.lock:
            before = self.before[name, asked.path]
            self.before[name, asked.path] += 1
        return ROWS[name].mood(self.shops[name], asked, before)

    def _login(self, name: str, asked: Asked) -> Answer | None:
        kind = ROWS[name].login
        never, _, scheme = kind.rpartition("-")
        wanted = BASIC if scheme == "basic" else f"Bearer {TOKEN}"
        if asked.headers.get("authorization") == wanted and not never:
            return None
        realm = 'Basic realm="market"'
        if scheme == "token":
            realm = f'Bearer realm="http://{self.registry.host}/token/{name}",service="market"'
        return Answer(401, b"", {"WWW-Authenticate": realm})

    def _token(self, name: str, asked: Asked) -> Answer:
        said = ROWS[name].tokens
        if said is not None:
            return said()
        known = asked.headers.get("authorization") == BASIC
        return Answer(200, json.dumps({"token": TOKEN}).encode()) if known else Answer(401)

    def keep(self, asked: Asked) -> Answer:
        """The blob store's answer."""
        _, folder, name, _ = asked.path.split("/")
        if folder == "asking":
            return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="give me"'})
        return self.shops[name].honest(asked) if folder == "open" else Answer(403)


@contextmanager
def open_market() -> Iterator[tuple[Market, Node, dict[str, str]]]:
    """The market, a node that has its password, and the id of each row's task."""
    market = Market()
    with serving(market.answer) as market.registry, serving(market.keep, address="127.0.0.2") as market.store:
        node = Node(name="market", config=(
            f'[registry."{market.registry.host}"]\nusername = "{USERNAME}"\npassword = "{PASSWORD}"\n'
        ))  # fmt: skip
        try:
            node.start()
            ids = {name: spawn(node, market.image(name), **ROWS[name].fields) for name in ROWS}
            yield market, node, ids
            node.stop()
        finally:
            node.destroy()


def spawn(node: Node, image: str, **fields: object) -> str:
    answer = node.api("POST", "/v1/tasks/spawn", json={"image": image, **SMALL, **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def end_of(node: Node, task_id: str) -> dict[str, object]:
    """The terminal record."""
    for _ in range(2):
        answer = node.api("GET", f"/v1/tasks/{task_id}", params={"wait": "terminal", "timeout": "60"})
        record: dict[str, object] = answer.json()
        if record["status"] in {"stopped", "failed"}:
            return record
    raise AssertionError(record)
