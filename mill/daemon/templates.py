"""The node's templates: those of its file, which only the file changes, over those that came by the API. As `api.core` asks."""

from collections.abc import Mapping
from typing import Protocol

import attrs

from mill.errors import Conflict, NotFound
from mill.model import Draft, Template


class TemplateStore(Protocol):
    """As `store.Store` for a lone node, `shared.Shared` for one in a cluster."""

    async def put_template(self, template: Template) -> None: ...

    async def delete_template(self, name: str) -> None: ...

    async def templates(self) -> list[Template]: ...


@attrs.define(eq=False)
class Templates:
    """All templates by name, in memory; the stored ones are written through."""

    _store: TemplateStore
    _configured: Mapping[str, Template]
    _stored: dict[str, Template]

    @classmethod
    async def load(cls, store: TemplateStore, configured: Mapping[str, Draft]) -> "Templates":
        fixed = {name: Template(name, draft, source="config") for name, draft in configured.items()}
        return cls(store, fixed, {template.name: template for template in await store.templates()})

    def all(self) -> Mapping[str, Template]:
        return {**self._stored, **self._configured}

    def drafts(self) -> Mapping[str, Draft]:
        return {name: template.draft for name, template in self.all().items()}

    async def put(self, template: Template) -> None:
        self._check_free(template.name)
        await self._store.put_template(template)
        self._stored[template.name] = template

    async def delete(self, name: str) -> None:
        self._check_free(name)
        if name not in self._stored:
            raise NotFound(f"no template {name[:80]!r}")
        await self._store.delete_template(name)
        self._stored.pop(name, None)

    def learn(self, name: str, template: Template | None) -> None:
        """Another node has put it, or deleted it."""
        if template is None:
            self._stored.pop(name, None)
        else:
            self._stored[name] = template

    def _check_free(self, name: str) -> None:
        if name in self._configured:
            raise Conflict(
                f"the template {name!r} is defined in the node's configuration file; change it there"
            )
