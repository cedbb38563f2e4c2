"""From what was written to what will run: template and request merged, defaults filled in, ids made. Pure.

The service calls it for every spawn, before anything is touched; randomness comes in as an argument.
"""

import re
import string
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

from mill.checks import NAME_LENGTH, is_label
from mill.containerd import reference
from mill.errors import FieldError
from mill.model import Draft, MountType, Network, SpawnRequest, Spec

SUFFIX_LENGTH = 4
SUFFIX_ALPHABET = string.ascii_lowercase + string.digits
TRIES_PER_LENGTH = 3
"""A name is crowded when so many suffixes in a row were taken; the next ones are a character longer."""


class Choice(Protocol):
    """As `random.Random`."""

    def choices(self, population: str, *, k: int) -> list[str]: ...


def lay_out(request: SpawnRequest, templates: Mapping[str, Draft]) -> tuple[Draft, str | None]:
    """The request over its template, and the template's name; `FieldError` when there is no such template."""
    inline = Draft(**{field.name: getattr(request, field.name) for field in attrs.fields(Draft)})
    if request.task is None:
        return inline, None
    template = templates.get(request.task)
    if template is None:
        known = ", ".join(sorted(templates)) or "none"
        raise FieldError("task", f"no template {request.task!r}; known are: {known}")
    named = attrs.evolve(template, name=template.name or request.task)
    return inline.over(named), request.task


def finish(draft: Draft, *, allow_mounts: tuple[str, ...]) -> Spec:
    """The spec with every default; `FieldError` for what this node cannot do."""
    if draft.image is None:
        raise FieldError("image", "is missing: name an image, or a template that has one")
    try:
        image = reference.parse(draft.image)
    except ValueError as error:
        raise FieldError("image", str(error)) from None
    for index, mount in enumerate(draft.mounts or ()):
        if mount.type is MountType.BIND:
            _check_allowed(f"mounts[{index}].source", mount.source or "", allow_mounts)
    if draft.publish and draft.network not in {None, Network.MESH}:
        text = (
            f"a task of network {draft.network} has no address to lead to: leave it out, or use network mesh"
        )
        raise FieldError("publish", text)
    return Spec(**{**draft.said(), "name": draft.name or label_of(image.repository)})


def _check_allowed(field: str, source: str, allowed: tuple[str, ...]) -> None:
    inside = any(source == path or source.startswith(path.rstrip("/") + "/") for path in allowed)
    if not inside or ".." in source.split("/"):
        raise FieldError(
            field, f"{source!r} is not below a path that this node allows (its option allow_mounts)"
        )


def label_of(repository: str) -> str:
    """The last part of an image's repository as a DNS label: ``library/My_App`` gives ``my-app``."""
    label = (
        re.sub(r"[^a-z0-9]+", "-", repository.rsplit("/", 1)[-1].lower()).strip("-")[:NAME_LENGTH].rstrip("-")
    )
    return label if is_label(label) else "task"


def new_id(name: str, choice: Choice, taken: Callable[[str], bool]) -> str:
    """``<name>-<suffix>``, unique by *taken*: four characters of a-z0-9, more when the name is crowded."""
    length = SUFFIX_LENGTH
    while True:
        for _ in range(TRIES_PER_LENGTH):
            room = 62 - length  # a label's 63, less the hyphen
            task_id = f"{name[:room].rstrip('-')}-{''.join(choice.choices(SUFFIX_ALPHABET, k=length))}"
            if not taken(task_id):
                return task_id
        length += 1
