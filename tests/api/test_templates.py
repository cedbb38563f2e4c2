"""``/v1/templates``: read, made, changed, removed; and what is no template."""

from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from mill.errors import Conflict
from mill.model import Draft, Size, Template
from tests.api.conftest import problem
from tests.api.fakes import FakeNode


async def test_a_template_is_made_shown_changed_and_removed(api: httpx.AsyncClient, fake: FakeNode) -> None:
    made = await api.put("/v1/templates/agent", json={"image": "busybox", "memory": "1G", "env": {"A": "b"}})
    assert made.status_code == 200
    assert fake.templates.kept == {
        "agent": Template("agent", Draft(image="busybox", memory=Size(1024**3), env={"A": "b"}))
    }
    shown = (await api.get("/v1/templates/agent")).json()
    assert shown == made.json()
    assert (shown["name"], shown["source"], shown["draft"]["memory"]) == ("agent", "api", 1024**3)
    await api.put("/v1/templates/agent", json={"image": "other"})
    assert fake.templates.kept["agent"].draft == Draft(image="other")
    with capture_logs() as logged:
        removed = await api.delete("/v1/templates/agent")
        assert (removed.status_code, removed.content) == (204, b"")
        assert (await api.get("/v1/templates/agent")).status_code == 404  # on the same connection
    assert logged == []
    assert fake.templates.kept == {}


async def test_templates_are_listed_by_name(api: httpx.AsyncClient, fake: FakeNode) -> None:
    for name in ("b", "c", "a"):
        fake.templates.kept[name] = Template(name, Draft(image="x"), source="config")
    said = (await api.get("/v1/templates")).json()["templates"]
    assert [(one["name"], one["source"]) for one in said] == [
        ("a", "config"),
        ("b", "config"),
        ("c", "config"),
    ]


@pytest.mark.parametrize(("name", "body", "field"), [
    ("Bad_Name", {"image": "x"}, "name"),
    ("a" * 59, {"image": "x"}, "name"),
    ("fine", {"cpus": 1}, "cpus"),
    ("fine", {"task": "other"}, "task"),
    ("fine", {"image": "Not A Reference"}, "image"),
    ("fine", {"image": "x", "memory": "x"}, "memory"),
    ("fine", {"image": "x", "env": {"A": 1}}, "env.A"),
    ("fine?force=1", {"image": "x"}, "force"),
])  # fmt: skip
async def test_a_bad_template_is_named_and_not_kept(
    api: httpx.AsyncClient, fake: FakeNode, name: str, body: dict[str, Any], field: str
) -> None:
    assert problem(await api.put(f"/v1/templates/{name}", json=body)) == (400, "bad-field", field)
    assert fake.templates.kept == {}


async def test_those_of_the_file_are_a_conflict(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.templates.kept["fixed"] = Template("fixed", Draft(image="x"), source="config")
    fake.templates.fault = Conflict("the template 'fixed' is defined in the node's configuration file")
    assert problem(await api.put("/v1/templates/fixed", json={"image": "y"})) == (409, "conflict", None)
    assert problem(await api.delete("/v1/templates/fixed")) == (409, "conflict", None)


async def test_an_unknown_one_is_404(api: httpx.AsyncClient) -> None:
    assert problem(await api.get("/v1/templates/nope")) == (404, "not-found", None)
