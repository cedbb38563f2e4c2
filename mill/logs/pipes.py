"""The files around one task's capture: its FIFOs, its log directory, the marker at the end. Blocking, and quick.

`store` calls these in a thread; nothing here knows of capture, holder or readers.
"""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

import attrs

from mill.errors import OUT_OF_FILES, FieldError
from mill.logs.frames import Cursor
from mill.logs.index import END_NAME, STREAMS, Stamps, Stream
from mill.logs.segments import FILE_MODE, SegmentWriter
from mill.units import KIB, MIB

DIRECTORY_MODE = 0o700
PIPE_SIZES_BYTES = (1 * MIB, 256 * KIB)
"""Asked for in this order (the default is 64 KiB): the more a pipe holds, the rarer a writer waits. Pages are used only
when filled. The kernel refuses what is over /proc/sys/fs/pipe-max-size, or over a user's share."""


FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, *OUT_OF_FILES})
"""A host that takes no more, and one day may again."""


@attrs.frozen
class TaskPipes:
    """Where a task's output goes in: two FIFOs, for containerd's ``Tasks.Create``."""

    stdout: Path
    stderr: Path

    def of(self, stream: Stream) -> Path:
        return self.stdout if stream == "stdout" else self.stderr


def make(fifos: Path, logs: Path) -> TaskPipes:
    """Both directories and both FIFOs, whatever of them is there already. Further output is expected from now on."""
    for directory in (fifos, logs):
        directory.mkdir(DIRECTORY_MODE, exist_ok=True)
    (logs / END_NAME).unlink(missing_ok=True)
    pipes = TaskPipes(fifos / "stdout", fifos / "stderr")
    for stream in STREAMS:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(pipes.of(stream), FILE_MODE)
    return pipes


def attach(pipes: TaskPipes, logs: Path) -> list[tuple[int, SegmentWriter]]:
    """Per stream the FIFO's reading end, and its writer just after the last byte that an earlier milld took."""
    stamps = Stamps()
    attached: list[tuple[int, SegmentWriter]] = []
    try:
        for stream in STREAMS:
            fifo = os.open(pipes.of(stream), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                _enlarge(fifo)
                attached.append((fifo, SegmentWriter.open(logs, stream, stamps)))
            except BaseException:
                os.close(fifo)
                raise
    except BaseException:
        for fifo, writer in attached:
            os.close(fifo)
            writer.close()
        raise
    return attached


def _enlarge(fifo: int) -> None:
    for size in PIPE_SIZES_BYTES:
        if fcntl.fcntl(fifo, fcntl.F_GETPIPE_SZ) >= size:
            return
        with contextlib.suppress(OSError):
            fcntl.fcntl(fifo, fcntl.F_SETPIPE_SZ, size)
            return


def finish(fifos: Path, logs: Path) -> None:
    """No more output comes: index what is there, write that it is the end, remove the FIFOs."""
    if not (logs / END_NAME).exists():
        logs.mkdir(DIRECTORY_MODE, exist_ok=True)
        stamps = Stamps()
        ends = []
        for stream in STREAMS:
            writer = SegmentWriter.open(logs, stream, stamps)
            writer.close()
            ends.append(writer.end)
        draft = logs / f"{END_NAME}.new"
        draft.write_text(str(Cursor(*ends)), encoding="ascii")
        draft.replace(logs / END_NAME)
    for stream in STREAMS:
        (fifos / stream).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        fifos.rmdir()


def final_cursor(logs: Path) -> tuple[Cursor, float] | None:
    """Where a finished log ends and when it did (unix seconds); None for one that may still grow."""
    marker = logs / END_NAME
    try:
        return Cursor.parse(marker.read_text(encoding="ascii")), marker.stat().st_mtime
    except (FileNotFoundError, FieldError):
        return None
