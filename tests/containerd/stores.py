# ruff: noqa: ASYNC110 -- what happens inside containerd has no event to wait for
"""What the tests of images share: images that no other test has, what containerd holds, a registry that stops half-way."""

import itertools
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import trio
import trio.testing

from mill.containerd import images as service
from mill.containerd import rpcs
from mill.containerd.images import Images
from mill.containerd.proto import content_pb2, leases_pb2, snapshots_pb2
from mill.containerd.registry import Patience
from mill.containerd.session import Session
from mill.errors import PullError
from mill.model import PullPolicy
from tests import images
from tests.containerd.faulty import Asked, Reply, Server, partial_content, wait_closed
from tests.images import OciImage, large_layer

MISSING, ALWAYS, NEVER = PullPolicy.MISSING, PullPolicy.ALWAYS, PullPolicy.NEVER
MIB = 2**20
LARGE_BYTES = 300 * MIB
STALL_LIMIT_S = 0.020
QUICK = Patience(tries=3, first_s=0.01, most_s=0.02)

_numbers = itertools.count()


async def start_images(nursery: trio.Nursery, session: Session, **options: Any) -> Images:
    options = {"node_id": "node-under-test", "now": time.time, "registries": {}, "patience": QUICK, **options}
    made: Images = await nursery.start(partial(service.serve, session, **options))
    return made


def fresh_layer(size_bytes: int = 1000) -> bytes:
    """One that no other test has."""
    return large_layer(size_bytes, f"{os.getpid()} {next(_numbers)}".encode())


def fresh_name() -> str:
    return f"test/image{next(_numbers)}"


async def leases(session: Session) -> list[str]:
    listed = await session.call(rpcs.LEASES_LIST, leases_pb2.ListRequest())
    return [lease.id for lease in listed.leases]


async def snapshots(session: Session) -> list[str]:
    request = snapshots_pb2.ListSnapshotsRequest(snapshotter=session.features.snapshotter)
    return [
        info.name for answer in await session.collect(rpcs.SNAPSHOTS_LIST, request) for info in answer.info
    ]


async def nothing_half_made(session: Session) -> None:
    assert await leases(session) == []
    assert [name for name in await snapshots(session) if not name.startswith("sha256:")] == []


async def collect_garbage(session: Session) -> None:
    """Deleting a lease synchronously waits for a garbage collection."""
    created = await session.call(rpcs.LEASES_CREATE, leases_pb2.CreateRequest(id=f"gc-{next(_numbers)}"))
    await session.call(rpcs.LEASES_DELETE, leases_pb2.DeleteRequest(id=created.lease.id, sync=True))


async def labels_of(session: Session, digest: str) -> dict[str, str]:
    info = (await session.call(rpcs.CONTENT_INFO, content_pb2.InfoRequest(digest=digest))).info
    return dict(info.labels)


async def run(session: Session, ref: str, *command: str) -> str:
    """What *command* prints in a container that ctr makes of the image, as any client of containerd would."""
    name = f"ctr-{os.getpid()}-{next(_numbers)}"
    snapshotter = f"--snapshotter={session.features.snapshotter}"
    ran = await trio.run_process(
        [
            "ctr",
            "-a",
            session.socket,
            "-n",
            session.namespace,
            "run",
            "--rm",
            snapshotter,
            ref,
            name,
            *command,
        ],
        capture_stdout=True,
    )
    return ran.stdout.decode()


def refused(ref: str, detail: str, why: str) -> Callable[[PullError], bool]:
    def check(error: PullError) -> bool:
        assert error.detail == detail, error.message
        assert why in error.message
        assert ref in error.message
        assert "\n" not in error.message
        return True

    return check


@attrs.define(slots=False)
class Slow:
    """A registry that stops in the middle of the top layer until it is told to go on."""

    layer: bytes = attrs.field(factory=partial(fresh_layer, 3 * MIB))
    below: tuple[bytes, ...] = ()
    first: int = 2 * MIB
    go_on: trio.Event = attrs.field(factory=trio.Event)
    reached: trio.Event = attrs.field(factory=trio.Event)
    server: Server = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.made = OciImage([*self.below, self.layer]).made()
        self.digest = images.digest_of(self.layer)

    @property
    def ref(self) -> str:
        return f"{self.server.host}/slow/image:v1"

    @property
    def layer_offsets(self) -> list[int]:
        return [asked.first_byte for asked in self.server.asked if self.digest in asked.path]

    async def handler(self, asked: Asked, stream: trio.SocketStream) -> Reply | None:
        await trio.lowlevel.checkpoint()
        if "/manifests/" in asked.path:
            return Reply(body=self.made.manifest, headers={"Content-Type": self.made.manifest_type})
        digest = asked.path.rpartition("/")[2]
        if digest != self.digest or self.go_on.is_set():
            return partial_content(self.made.blobs[digest], asked.first_byte)
        await stream.send_all(
            Reply(length=len(self.layer) - asked.first_byte).head() + self.layer[: self.first]
        )
        self.reached.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_with_the_connection, stream, nursery.cancel_scope)
            await self.go_on.wait()
            nursery.cancel_scope.cancel()
        if self.go_on.is_set():
            await stream.send_all(self.layer[self.first :])
        return None

    @staticmethod
    async def _end_with_the_connection(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        await wait_closed(stream)
        scope.cancel()


async def wait_stored(session: Session, slow: Slow) -> None:
    """Until containerd has a part of the layer."""
    request = content_pb2.StatusRequest(ref=f"layer-{slow.digest}")
    await slow.reached.wait()
    with trio.fail_after(10):
        while (await session.call(rpcs.CONTENT_STATUS, request)).status.offset < MIB:
            await trio.sleep(0.01)
