"""The room that this node's images may take: watched while they grow, made by removing those that nobody has used for longest.

`pull` and `load` claim what they are about to take, blob by blob and snapshot by snapshot; `images` makes it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import attrs
import structlog
import trio

from mill.config import IMAGE_SHARE
from mill.containerd import eviction
from mill.containerd.eviction import Kept, OverBudget, Part, Parts, Plan
from mill.containerd.faults import RpcError, RpcNotFound
from mill.containerd.holds import Holds
from mill.containerd.session import Session
from mill.containerd.stock import Stock
from mill.containerd.unpack import Grow
from mill.units import format_size

log = structlog.get_logger()


@attrs.define(eq=False)
class Budget:
    """`limit_bytes` None: no limit. A part that several images or claims share counts once."""

    stock: Stock
    holds: Holds
    limit_bytes: int | None
    _claims: list["Claim"] = attrs.field(factory=list, init=False)
    _one: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    @contextmanager
    def claim(self) -> Iterator["Claim"]:
        """For the length of a pull or load; what it has taken then belongs to an image, or is gone."""
        claim = Claim(self)
        self._claims.append(claim)
        try:
            yield claim
        finally:
            self._drop(claim)

    async def trim(self) -> None:
        """Once at the start, for a limit that has become smaller; nothing is removed before the tasks are known."""
        if self.limit_bytes is None:
            return
        await self.holds.wait_known()
        try:
            async with self._one:
                while (found := await self._plan(self.limit_bytes))[1].names:
                    await self._remove(*found)
        except RpcError as fault:
            log.warning("the images' room is not looked at before the next pull", why=fault.message)
            return
        if (size := found[1].size) > self.limit_bytes:
            taken, limit = format_size(size), format_size(self.limit_bytes)
            log.warning("images in use take more than --image-max-bytes", taken=taken, limit=limit)

    def _drop(self, claim: "Claim") -> None:
        if claim in self._claims:
            self._claims.remove(claim)

    async def fit(self, claim: "Claim", parts: Parts) -> None:
        """Make room for *claim* to grow by *parts*, or raise `OverBudget`, and then nothing was removed in vain."""
        if self.limit_bytes is None:
            return
        async with self._one:
            claim.parts.update(parts)
            patient = True
            while True:
                images, plan = await self._plan(self.limit_bytes)
                lately_s = self.holds.found_for_s()
                if plan.size <= self.limit_bytes:
                    if not plan.names:
                        return
                    await self.holds.wait_known()
                    await self._remove(images, plan)
                elif patient and lately_s > 0:  # a task of what was found is made by then, or over
                    patient = False
                    await trio.sleep(lately_s)
                else:
                    self._check(claim, images, plan.size)
                    return

    async def _plan(self, limit_bytes: int) -> tuple[list[Kept], Plan]:
        images = await self.stock.kept()
        claims = [one.parts for one in self._claims]
        return images, eviction.plan(images, self.holds.held(), claims, limit_bytes)

    def _check(self, claim: "Claim", images: list[Kept], size: int) -> None:
        """Of *size* bytes that stay whatever goes; a claim that adds nothing to them is none the worse."""
        held = self.holds.held()
        staying = [one.parts for one in self._claims if one is not claim]
        others = eviction.size_of([*staying, *(image.parts for image in images if image.name in held)])
        if (needed := size - others) > 0:
            self._drop(claim)  # it is about to be given up: another that has waited may fit then
            limit, room = self.limit_bytes or 0, max(0, (self.limit_bytes or 0) - others)
            raise OverBudget(
                f"it needs {format_size(needed)} or more, and of the {format_size(limit)} that images may take "
                f"{format_size(room)} can be had: raise --image-max-bytes, or end tasks that use other images"
            )

    async def _remove(self, images: list[Kept], plan: Plan) -> None:
        """What somebody has come to hold meanwhile stays."""
        used = {image.name: image.used for image in images}
        for name in plan.names:
            async with self.holds.removing(name):
                if name not in self.holds.held():
                    with suppress(RpcNotFound):
                        await self.stock.delete(name)
                    log.info("image removed to make room", image=name, used=used[name])


@attrs.define(eq=False)
class Claim:
    """What one pull or load takes of the room, as far as it is known."""

    _budget: Budget
    parts: dict[Part, int] = attrs.field(factory=dict, init=False)

    @property
    def heard(self) -> Grow | None:
        """`grow`, for those who would have to measure what nobody counts."""
        return None if self._budget.limit_bytes is None else self.grow

    async def grow(self, parts: Parts) -> None:
        """It takes *parts* too, or more of them than before. Raises `OverBudget`, and RpcError."""
        await self._budget.fit(self, parts)


async def limit_of(session: Session, said_bytes: int | None) -> int | None:
    """What was said (0: no limit), or a share of the file system that containerd unpacks to, where that can be seen."""
    if said_bytes is not None:
        return said_bytes or None
    root = session.features.snapshots_root
    if root is None:
        return None
    try:
        found = await trio.to_thread.run_sync(os.statvfs, root)
    except OSError:
        return None
    return int(found.f_frsize * found.f_blocks * IMAGE_SHARE)
