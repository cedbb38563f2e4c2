"""A lease lives as long as its block, also one that nobody wants any more when containerd has made it."""

from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from mill.containerd import rpcs
from mill.containerd.leases import leased
from mill.containerd.proto import leases_pb2
from mill.containerd.rpcs import Rpc
from mill.containerd.session import Session

SLOW_S = 0.5
"""What containerd takes for a lease; it makes it, whether somebody still waits or not."""


@attrs.define(eq=False)
class SlowContainerd:
    """Its leases."""

    made: int = 0
    kept: set[str] = attrs.field(factory=set)

    async def call(self, rpc: Rpc[Any, Any], request: Any, *, timeout_s: float) -> Any:
        assert timeout_s > SLOW_S
        if rpc is rpcs.LEASES_CREATE:
            self.made += 1
            self.kept.add(f"lease-{self.made}")
            await trio.sleep(SLOW_S)
            return leases_pb2.CreateResponse(lease=leases_pb2.Lease(id=f"lease-{self.made}"))
        self.kept.remove(request.id)
        await trio.lowlevel.checkpoint()
        return None


async def use(containerd: SlowContainerd, for_s: float) -> None:
    async with leased(cast("Session", containerd), "node", lambda: 0.0) as lease:
        assert containerd.kept == {lease}
        await trio.sleep(for_s)


async def test_a_lease_ends_with_its_block(autojump_clock: MockClock) -> None:
    assert autojump_clock
    containerd = SlowContainerd()
    await use(containerd, 1.0)
    assert (containerd.made, containerd.kept) == (1, set())


@pytest.mark.parametrize("after_s", [0.0, SLOW_S / 2, 2 * SLOW_S])
async def test_a_lease_whose_block_was_cancelled_before_it_began_or_in_it_is_gone(
    autojump_clock: MockClock, after_s: float
) -> None:
    assert autojump_clock
    containerd = SlowContainerd()
    with trio.move_on_after(after_s) as scope:
        await use(containerd, 10.0)
    assert scope.cancelled_caught
    assert (containerd.made, containerd.kept) == (1 if after_s else 0, set())
