"""The node's templates: those of its file over those of the API, and what survives a restart. On a real store."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from mill.daemon.templates import Templates
from mill.errors import Conflict, NotFound
from mill.model import Draft, Template
from mill.store import Store
from mill.store import serve as serve_store

FIXED = {"fixed": Draft(image="file")}


@pytest.fixture
async def store(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Store]:
    made: Store = await nursery.start(partial(serve_store, tmp_path / "mill.db"))
    yield made
    nursery.cancel_scope.cancel()


async def test_what_is_put_is_there_after_a_restart(store: Store) -> None:
    templates = await Templates.load(store, FIXED)
    own = Template("own", Draft(image="api", env={"A": "b"}, cpu=0.5))
    await templates.put(own)
    for one in (templates, await Templates.load(store, FIXED)):
        assert one.all() == {"own": own, "fixed": Template("fixed", Draft(image="file"), source="config")}
        assert one.drafts() == {"own": own.draft, "fixed": Draft(image="file")}


async def test_those_of_the_file_are_the_files_to_change(store: Store) -> None:
    templates = await Templates.load(store, FIXED)
    with pytest.raises(Conflict, match="configuration file"):
        await templates.put(Template("fixed", Draft(image="api")))
    with pytest.raises(Conflict, match="configuration file"):
        await templates.delete("fixed")
    assert await store.templates() == []


async def test_the_file_hides_one_of_the_same_name_and_gives_it_back(store: Store) -> None:
    await (await Templates.load(store, {})).put(Template("fixed", Draft(image="api")))
    assert (await Templates.load(store, FIXED)).drafts()["fixed"].image == "file"
    assert (await Templates.load(store, {})).drafts()["fixed"].image == "api"


async def test_a_deleted_one_is_gone(store: Store) -> None:
    templates = await Templates.load(store, {})
    await templates.put(Template("own", Draft(image="x")))
    await templates.put(Template("own", Draft(image="y")))
    await templates.delete("own")
    assert templates.all() == {}
    with pytest.raises(NotFound, match="no template 'own'"):
        await templates.delete("own")
    assert (await Templates.load(store, {})).all() == {}
