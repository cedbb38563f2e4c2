"""Where an embedded containerd keeps its things, and the configuration it is given. `embedded` runs it; nobody else asks.

The configuration is of version 2, which 1.6, 1.7 and 2.x read.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import attrs

from mill.containerd.endpoint import SUN_PATH_BYTES
from mill.errors import SetupError
from mill.units import MIB

LOG_BYTES = 8 * MIB
"""A log over this size is set aside (one generation) when containerd starts."""

_TTRPC_SUFFIX = ".ttrpc"
"""containerd opens a second socket beside the first, named so."""

_UNNEEDED = (
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.podsandbox.controller.v1.podsandbox",
    "io.containerd.sandbox.controller.v1.shim",
    "io.containerd.sandbox.store.v1.local",
    "io.containerd.grpc.v1.sandbox-controllers",
    "io.containerd.grpc.v1.sandboxes",
    "io.containerd.nri.v1.nri",
    "io.containerd.image-verifier.v1.bindir",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart",
    "io.containerd.monitor.container.v1.restart",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.ttrpc.v1.otelttrpc",
    "io.containerd.transfer.v1.local",
    "io.containerd.grpc.v1.transfer",
    "io.containerd.streaming.v1.manager",
    "io.containerd.grpc.v1.streaming",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.zfs",
)
"""Kubernetes' side, tracing, transfer, and snapshotters for other filesystems. An unknown name does no harm.
Not `io.containerd.runtime.v1.linux`: without it 1.6 has no task service."""

_CONFIG = """\
# Written by milld at each start; changes are lost.
version = 2
root = {root}
state = {state}
disabled_plugins = [{disabled}]

[grpc]
  address = {socket}

[debug]
  level = "warn"

[plugins]
  [plugins."io.containerd.monitor.v1.cgroups"]
    no_prometheus = true
"""


@attrs.frozen
class Place:
    """Where everything of one embedded containerd lies."""

    directory: Path

    @classmethod
    def under(cls, data_dir: Path) -> "Place":
        return cls(data_dir.absolute() / "containerd")

    @property
    def socket(self) -> str:
        return str(self.directory / "containerd.sock")

    @property
    def log(self) -> Path:
        return self.directory / "containerd.log"

    @property
    def config(self) -> Path:
        return self.directory / "config.toml"

    def prepare(self) -> None:
        """Make the directories and write the configuration."""
        if len(os.fsencode(self.socket + _TTRPC_SUFFIX)) > SUN_PATH_BYTES:
            raise SetupError(f"{self.socket}: too long for a unix socket; choose a shorter --data-dir")
        try:
            for directory in (self.directory, self.directory / "root", self.directory / "state"):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                directory.chmod(0o700)
            self.config.write_text(self._config())
        except OSError as error:
            raise SetupError(
                f"{self.directory}: cannot prepare it for containerd: {error.strerror}"
            ) from error

    def rotate_log(self) -> None:
        with suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))

    def remove_sockets(self) -> None:
        """They say nothing once nobody listens."""
        for socket in (self.socket, self.socket + _TTRPC_SUFFIX):
            Path(socket).unlink(missing_ok=True)

    def finish_deletions(self) -> None:
        """Bundles that a killed containerd was deleting: it hides one first, and never looks at it again; but as long as
        it is there, that task's next bundle cannot be deleted. Only while no containerd runs.
        """
        for hidden in self.directory.glob("*/io.containerd.runtime.v2.task/*/.*"):
            if not (hidden / "rootfs").is_mount():
                shutil.rmtree(hidden, ignore_errors=True)

    def last_words(self) -> str:
        """The last line of the log, which names why containerd ended."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return lines[-1].strip() if lines else "it said nothing"

    def _config(self) -> str:
        return _CONFIG.format(
            root=_toml(self.directory / "root"),
            state=_toml(self.directory / "state"),
            socket=_toml(self.socket),
            disabled=", ".join(_toml(name) for name in _UNNEEDED),
        )


def _toml(text: object) -> str:
    """A basic string of TOML."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
