"""A containerd of a test's own with nothing in it, and images over it that know what room they have. Called by `conftest`."""

import time

import attrs
import trio

from mill.containerd import rpcs
from mill.containerd.images import Images
from mill.containerd.proto import content_pb2
from mill.containerd.session import Session
from tests import registry
from tests.containerd.stores import MIB, fresh_layer, fresh_name, start_images
from tests.images import OciImage, push

ROOM = 15 * MIB
"""For three images of two mebibytes, which take as much again unpacked."""


@attrs.define
class Clock:
    """Every look at it is a second later than the one before."""

    time: float = attrs.field(factory=time.time)

    def __call__(self) -> float:
        self.time += 1
        return self.time


@attrs.define
class Place:
    """A containerd with nothing in it, and milld's images over it. `live` are the tasks: (id, image)."""

    session: Session
    nursery: trio.Nursery
    live: list[tuple[str, str]] = attrs.field(factory=list)
    now: Clock = attrs.field(factory=Clock)

    async def start(self, max_bytes: int = ROOM, nursery: trio.Nursery | None = None) -> Images:
        made = await start_images(nursery or self.nursery, self.session, now=self.now, max_bytes=max_bytes)
        made.holds.ask_tasks(lambda: self.live)
        return made

    async def blobs(self) -> set[str]:
        answers = await self.session.collect(rpcs.CONTENT_LIST, content_pb2.ListContentRequest())
        return {info.digest for answer in answers for info in answer.info}


async def pushed(reg: registry.Registry, size: int = 2 * MIB) -> str:
    name = fresh_name()
    await push(OciImage([fresh_layer(size)]), reg.host, name, "v1")
    return f"{reg.host}/{name}:v1"


async def names(store: Images) -> set[str]:
    return {image.ref for image in await store.list()}
