"""`mill images`: what the node's store holds, and archives into it."""

import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import click
import trio

from mill.cli import complete, connect, progress, render
from mill.cli.output import show_json, show_table
from mill.client import Client, PullStream, calls
from mill.errors import FieldError, ProblemError
from mill.model import PullProgress

CHUNK_BYTES = 1024 * 1024
"""Read and sent at once."""

LOAD_HELP = """Load an OCI or Docker archive (from 'docker save', 'skopeo copy', ...), or standard input (-).

    \b
    mill images load myapp.tar
    docker save myapp:v3 | mill images load -
    mill images load --name myapp:v3 oci-archive.tar
    """


PULL_HELP = """Pull an image ahead of the tasks that need it.

    On a terminal stderr shows how far each layer is. Ctrl-C ends the pull unless somebody else waits for it, too; what has
    been fetched is kept for the next one.

    \b
    mill images pull docker.io/library/busybox
    mill images pull --pull missing registry.example.com/coop:claude
    """

RM_HELP = """Remove images that no task uses, and what only they kept on the disk.

    \b
    mill images rm busybox registry.example.com/coop:claude
    """

GROUP_HELP = """List, pull, load and remove images of a node's store, the asked one's unless --node names another; without a command, list them.

    What a task needs is pulled when it starts.
    """


_on_node = click.option("--node", help="On this node.", shell_complete=complete.nodes)


@click.group(help=GROUP_HELP, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
@click.pass_context
def images(ctx: click.Context, *, as_json: bool) -> None:
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_images, as_json=as_json, node=None)


@images.command("ls", help="List images.")
@_on_node
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
@click.pass_obj
def list_images(now: Callable[[], float], *, as_json: bool, node: str | None) -> None:
    async def show(mill: Client) -> None:
        answer = await mill.ask(calls.images(node))
        if as_json:
            show_json(answer)
            return
        found = mill.decode(calls.images(), answer)
        show_table(render.IMAGE_COLUMNS, [render.image_row(one, now()) for one in found])

    connect.run(show)


@images.command("load", help=LOAD_HELP)
@click.argument("file", metavar="FILE", shell_complete=complete.files)
@click.option("--name", metavar="REF", help="What to call the image (default: as the archive says).")
@_on_node
@click.option("--json", "as_json", is_flag=True, help="Print the API's answer.")
def load_image(*, file: str, name: str | None, as_json: bool, node: str | None) -> None:
    with _opened(file) as archive:
        size = _size_of(archive)

        async def load(mill: Client) -> None:
            with _progress(size) as advance:
                answer = await mill.ask_load(_pieces(archive, advance), name=name, size=size, node=node)
            if as_json:
                show_json(answer)
                return
            for image in mill.decode(calls.load_image(), answer):
                click.echo(f"loaded {render.printable(image.ref)}  {render.printable(image.digest)}")

        connect.run(load)


@images.command("pull", help=PULL_HELP)
@click.argument("ref", metavar="REF")
@click.option(
    "--pull",
    "policy",
    type=click.Choice(["missing", "always"]),
    default="always",
    show_default=True,
    help="With missing, an image that is there already is not asked for again.",
)
@_on_node
@click.option("--json", "as_json", is_flag=True, help="Print what the API tells, one JSON object a line.")
def pull_image(*, ref: str, policy: str, as_json: bool, node: str | None) -> None:
    async def pull(mill: Client) -> None:
        async with mill.pull_image(ref, pull=policy, node=node) as news:
            await (_print_lines(news) if as_json else _show_pull(ref, news))

    connect.run(pull)


async def _show_pull(ref: str, news: PullStream) -> None:
    with progress.shown(trio.current_time) as view:
        async for one in news:
            if isinstance(one, PullProgress):
                view.show(ref, one)
            else:
                view.hide()
                click.echo(f"pulled {render.printable(one.ref)}  {render.printable(one.digest)}")


async def _print_lines(news: PullStream) -> None:
    try:
        async for _ in news:
            click.echo(json.dumps(news.said))
    except ProblemError:
        if "error" in news.said:
            click.echo(json.dumps(news.said))
        raise


@images.command("rm", help=RM_HELP)
@click.argument("refs", metavar="REF...", nargs=-1, required=True)
@_on_node
def remove_images(*, refs: tuple[str, ...], node: str | None) -> None:
    async def remove(mill: Client) -> None:
        for ref in refs:
            await mill.remove_image(ref, node=node)
            click.echo(f"removed {render.printable(ref)}")

    connect.run(remove)


def _opened(file: str) -> AbstractContextManager[BinaryIO]:
    if file == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise FieldError("", f"cannot read {file}: {os.strerror(error.errno or 0).lower()}") from None


def _size_of(archive: BinaryIO) -> int | None:
    try:
        return os.fstat(archive.fileno()).st_size if archive.seekable() else None
    except OSError:
        return None


async def _pieces(archive: BinaryIO, advance: Callable[[int], None]) -> AsyncIterator[bytes]:
    while piece := await trio.to_thread.run_sync(archive.read, CHUNK_BYTES, abandon_on_cancel=True):
        yield piece
        advance(len(piece))


@contextmanager
def _progress(size: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's stderr, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 -- only a terminal pays for it
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415 -- as above

    columns = (TextColumn("sending"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("sending", total=size)
        yield lambda count: progress.advance(task, count)
