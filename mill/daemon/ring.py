"""The secrets of this node while it runs: a change of them is on disk first, and then holds for all that is said from there on.

Nothing here tells a secret to anybody; `rotation` does, to other nodes alone.
"""

from collections.abc import Callable
from pathlib import Path

import attrs
import structlog
import trio

from mill.daemon import datadir
from mill.errors import SetupError, Unavailable
from mill.security.certificates import Authority
from mill.security.channel import Channels
from mill.security.keys import Keyring
from mill.security.secret_file import SECRET_NAME, write

log = structlog.get_logger()


@attrs.define(eq=False)
class Ring:
    """`now` is what `cluster.secret` in *data_dir* holds. `on_change` hears of the ring that was and of the one that is."""

    _data_dir: Path
    now: Keyring
    channels: Channels
    on_change: list[Callable[[Keyring, Keyring], None]] = attrs.field(factory=list)
    _changing: trio.Lock = attrs.field(factory=trio.Lock)

    @property
    def path(self) -> Path:
        return self._data_dir / SECRET_NAME

    async def change(self, step: Callable[[Keyring], Keyring]) -> None:
        """By *step*, whose errors pass; `Unavailable` where it cannot be kept, and then nothing has changed."""
        with trio.CancelScope(shield=True):  # what is on disk is what holds
            async with self._changing:
                before, after = self.now, step(self.now)
                if after == before:
                    return
                try:
                    await trio.to_thread.run_sync(self._keep, after)
                except SetupError as error:
                    raise Unavailable(str(error)) from None
                self.now = after
                self.channels.use(after)
                for hear in self.on_change:
                    hear(before, after)
        understood = [secret.key_id.hex() for secret in after]
        log.info("the cluster's secret is being changed", in_use=understood[0], understood=understood)

    def _keep(self, ring: Keyring) -> None:
        """Clients may be shown a certificate by a secret only once those on this node trust its authority."""
        datadir.publish_authority(self._data_dir, "".join(Authority(secret).pem for secret in ring))
        write(self.path, ring)
