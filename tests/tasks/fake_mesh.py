"""A network without a kernel: who has room in it, for the tests of tasks."""

import attrs
import trio

from mill.errors import NoCapacity
from mill.model import Spec
from mill.tasks.ports import Attachment


@attrs.define(eq=False)
class FakeMesh:
    """Who has room in the network; every task gets the same address."""

    room: int = 1000
    held: set[str] = attrs.field(factory=set)

    def reserve(self, task_id: str, spec: Spec) -> Spec:
        if len(self.held) >= self.room:
            raise NoCapacity("no address is left")
        self.held.add(task_id)
        ports = tuple(attrs.evolve(port, host=port.host or 40000) for port in spec.publish)
        return attrs.evolve(spec, publish=ports)

    def rename(self, task_id: str, other: str) -> None:
        self.held.remove(task_id)
        self.held.add(other)

    def adopt(self, task_id: str, spec: Spec) -> None:  # noqa: ARG002 -- the protocol's
        self.held.add(task_id)

    def release(self, task_id: str) -> None:
        self.held.discard(task_id)

    async def attach(self, task_id: str) -> Attachment:  # noqa: ARG002 -- the protocol's
        await trio.lowlevel.checkpoint()
        return Attachment("10.99.0.2", "/proc/1/ns/net")

    def entered(self, task_id: str) -> None: ...

    def ip_of(self, task_id: str) -> str | None:  # noqa: ARG002 -- the protocol's
        return "10.99.0.2"

    def detach(self, task_id: str) -> None: ...
