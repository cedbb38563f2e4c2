"""Templates and tokens of a cluster: settings that all nodes share, in the place of a lone node's own tables. Wired by `node`.

What a founder kept while it was alone goes along once. There is one admin's token, the founder's: all nodes know its hash.
"""

import json
from collections.abc import Callable, Iterator
from typing import TypeVar

import structlog

from mill.cluster.outcomes import KeepSettings
from mill.cluster.settings import Setting
from mill.config import Config
from mill.convert import from_json, to_json
from mill.daemon import datadir
from mill.daemon.cluster import ADMIN, Cluster
from mill.daemon.templates import Templates
from mill.errors import MillError
from mill.model import Draft, Template, TokenView
from mill.security.tokens import Tokens, hash_of, read_or_make
from mill.store import Store

TEMPLATE, TOKEN = "template/", "token/"
"""What keys begin with."""
IMPORTED, YES = "settings_imported", "yes"

T = TypeVar("T")

log = structlog.get_logger()


async def load(
    config: Config, store: Store, cluster: Cluster | None, now: Callable[[], float]
) -> tuple[Templates, Tokens]:
    """The node's own, or those of its cluster; who joins one makes no admin's token."""
    alone_or_first = cluster is None or cluster.founder
    admin = hash_of(read_or_make(config.data_dir / datadir.TOKEN_NAME)) if alone_or_first else None
    if cluster is None:
        return await Templates.load(store, config.templates), await Tokens.load(store, admin, now)
    shared = Shared(cluster)
    if admin is not None:
        await shared.take_over(store)
        await shared.set_admin(admin)
    templates = await Templates.load(shared, config.templates)
    tokens = await Tokens.load(shared, shared.admin, now)
    shared.teach(templates, tokens)
    return templates, tokens


class Shared:
    """As `Templates` and `Tokens` ask of a store."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def put_template(self, template: Template) -> None:
        await self._set(TEMPLATE + template.name, template.draft)

    async def delete_template(self, name: str) -> None:
        await self._set(TEMPLATE + name, None)

    async def templates(self) -> list[Template]:
        read = ((setting, template_of(setting)) for setting in self._settings(TEMPLATE))
        return [template for _, template in read if template is not None]

    async def put_token(self, hashed: str, token: TokenView) -> None:
        await self._set(TOKEN + hashed, token)

    async def delete_token(self, hashed: str) -> None:
        await self._set(TOKEN + hashed, None)

    async def tokens(self) -> dict[str, TokenView]:
        read = ((setting.key.removeprefix(TOKEN), token_of(setting)) for setting in self._settings(TOKEN))
        return {hashed: token for hashed, token in read if token is not None}

    @property
    def admin(self) -> str | None:
        """The hash of the admin's token."""
        setting = self._cluster.engine.settings.get(ADMIN)
        return None if setting is None else _value(setting, str)

    async def set_admin(self, hashed: str) -> None:
        if self.admin != hashed:
            await self._set(ADMIN, hashed)

    async def take_over(self, store: Store) -> None:
        """What this node kept for itself alone."""
        if await store.fact(IMPORTED) == YES:
            return
        for template in await store.templates():
            await self.put_template(template)
        for hashed, token in (await store.tokens()).items():
            await self.put_token(hashed, token)
        await store.put_fact(IMPORTED, YES)

    def teach(self, templates: Templates, tokens: Tokens) -> None:
        """Let both hear of what other nodes change from now on."""

        def learn(kept: KeepSettings) -> None:
            for setting in kept.changed:
                if setting.key.startswith(TEMPLATE):
                    templates.learn(setting.key.removeprefix(TEMPLATE), template_of(setting))
                elif setting.key.startswith(TOKEN):
                    tokens.learn(setting.key.removeprefix(TOKEN), token_of(setting))
                elif setting.key == ADMIN:
                    tokens.learn_admin(self.admin)

        self._cluster.news.on[KeepSettings].append(learn)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _settings(self, prefix: str) -> Iterator[Setting]:
        return (setting for setting in self._cluster.engine.settings if setting.key.startswith(prefix))

    async def _set(self, key: str, value: object) -> None:
        await self._cluster.set(key, None if value is None else json.dumps(to_json(value)).encode())


def template_of(setting: Setting) -> Template | None:
    draft = _value(setting, Draft)
    return None if draft is None else Template(setting.key.removeprefix(TEMPLATE), draft)


def token_of(setting: Setting) -> TokenView | None:
    return _value(setting, TokenView)


def _value(setting: Setting, kind: type[T]) -> T | None:
    """None for one that is deleted, and for one that only a newer Mill understands."""
    if setting.value is None:
        return None
    try:
        return from_json(kind, json.loads(setting.value))
    except (MillError, ExceptionGroup, ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning(
            "a setting of the cluster cannot be read; passing it on", key=setting.key, why=repr(error)
        )
        return None
