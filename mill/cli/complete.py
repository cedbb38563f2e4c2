"""What the shell offers behind TAB: task ids, images, templates and more, asked of milld with little patience.

Given to arguments and options as `shell_complete`. Nothing here may ever print or fail: a shell is waiting for a list.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import click
import trio
from click.shell_completion import CompletionItem

from mill.client import Client
from mill.errors import MillError

PATIENCE_S = 1.0
"""For milld to answer; longer than that nobody waits for a list."""
MOST = 200
"""Of tasks are offered, the newest."""

Completer = Callable[[click.Context, click.Parameter, str], list["CompletionItem[str]"]]
Offer = tuple[str, str]
"""A value, and a word about it that zsh and fish show."""


def _of(ask: Callable[[Client], Awaitable[Iterable[Offer]]]) -> Completer:
    def offered(_: click.Context, __: click.Parameter, incomplete: str) -> list["CompletionItem[str]"]:
        found = _asked(ask)
        return [
            CompletionItem(value, help=about or None)
            for value, about in found
            if value.startswith(incomplete) and value.isprintable() and about.isprintable()
        ]

    return offered


def _asked(ask: Callable[[Client], Awaitable[Iterable[Offer]]]) -> list[Offer]:
    """What milld says; nothing where it is away, slow, or does not want to."""

    async def within() -> list[Offer]:
        with trio.move_on_after(PATIENCE_S), suppress(MillError):
            async with Client(timeout=PATIENCE_S) as mill:
                return list(await ask(mill))
        return []

    return trio.run(within)


async def _tasks(mill: Client, *, ended: bool) -> list[Offer]:
    offers: list[Offer] = []
    async for record in mill.tasks(all=ended, page_size=MOST):
        offers.append((record.id, str(record.status)))
        if len(offers) == MOST:
            break
    return offers


async def _templates(mill: Client) -> list[Offer]:
    return [(one.name, one.draft.image or "") for one in await mill.templates()]


async def _images(mill: Client) -> list[Offer]:
    """As the node calls them, and as people write them: Docker Hub's without its name."""
    refs = [image.ref for image in await mill.images()]
    return [(name, "") for ref in refs for name in dict.fromkeys((ref, _short(ref)))]


def _short(ref: str) -> str:
    return ref.removeprefix("docker.io/").removeprefix("library/")


async def _nodes(mill: Client) -> list[Offer]:
    return [((await mill.status()).node, "")]


async def _tokens(mill: Client) -> list[Offer]:
    return [(token.id, token.name) for token in await mill.tokens()]


async def _live(mill: Client) -> list[Offer]:
    return await _tasks(mill, ended=False)


async def _every(mill: Client) -> list[Offer]:
    return await _tasks(mill, ended=True)


live_tasks = _of(_live)
tasks = _of(_every)
templates = _of(_templates)
images = _of(_images)
nodes = _of(_nodes)
tokens = _of(_tokens)


def files(_: click.Context, __: click.Parameter, incomplete: str) -> list["CompletionItem[str]"]:
    """The shell's own."""
    return [CompletionItem(incomplete, type="file")]


def one_of(*values: str) -> Completer:
    """Of a fixed set."""

    def offered(_: click.Context, __: click.Parameter, incomplete: str) -> list["CompletionItem[str]"]:
        return [CompletionItem(value) for value in values if value.lower().startswith(incomplete.lower())]

    return offered
