"""The holder: a small process of its own that keeps every task's FIFOs open, so that their bytes outlive milld.

A pipe keeps its bytes only while somebody has it open. The shim does while its task runs; at the end it lets go, and with
no milld there what the task wrote last would be lost. milld starts this file as a script (`holding`), and it must stay a
stranger to the rest of Mill: it imports next to nothing, to stay small, and it never reads or writes a FIFO.

Over a unix socket in the data directory, a line a request, a line an answer:

    hold <id>       opens fifos/<id>/stdout and stderr for reading and writing     -> ok | error <why>
    release <id>    closes them; fine if it holds none                              -> ok
    list            what it holds                                                   -> ok <id> <id> ...

It outlives every milld that talks to it. Holding nothing, with nobody connected, it removes its socket and ends; and it
ends when its socket was taken away, since no milld can find it then.
"""

import _socket  # what `socket` wraps: a megabyte less, in a process that does nothing with it
import os
import resource
import select
import sys

SOCKET_NAME = "holder.sock"
FIFOS_NAME = "fifos"
STREAMS = ("stdout", "stderr")
FIRST_CONTACT_S = 10.0
"""How long a new holder waits for the milld that started it."""
ALONE_S = 30.0
"""How often it looks whether its socket is still there while no milld is connected."""
LINE_BYTES = 256
"""The longest request: a task's id has at most 63 characters."""
BACKLOG = 8

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


class Holder:
    def __init__(self, listener: _socket.socket) -> None:
        self.listener = listener
        self.inode = os.stat(SOCKET_NAME).st_ino  # noqa: PTH116 -- importing pathlib costs more than all of this
        self.held: dict[str, list[int]] = {}
        self.peers: dict[int, tuple[_socket.socket, bytes]] = {}
        self.poll = select.poll()
        self.poll.register(listener.fileno(), select.POLLIN)

    def run(self) -> None:
        """Until there is nothing to hold and nobody to hold for."""
        wait_s: float | None = FIRST_CONTACT_S
        while True:
            events = self.poll.poll(None if wait_s is None else wait_s * 1000)
            for fd, _ in events:
                if fd == self.listener.fileno():
                    self.accept()
                else:
                    self.serve(fd)
            if self.peers:
                wait_s = None
            elif self.held:
                if not events and not self.can_be_found():
                    return
                wait_s = ALONE_S
            elif not events or wait_s != FIRST_CONTACT_S:
                return

    def can_be_found(self) -> bool:
        try:
            return os.stat(SOCKET_NAME).st_ino == self.inode  # noqa: PTH116 -- as above
        except OSError:
            return False

    def accept(self) -> None:
        try:
            fd, _ = self.listener._accept()  # type: ignore[attr-defined] # noqa: SLF001 -- all that `socket.accept` wraps
        except OSError:
            return  # it hung up before, or we are out of descriptors: it will come again
        os.set_blocking(fd, False)
        self.peers[fd] = _socket.socket(fileno=fd), b""
        self.poll.register(fd, select.POLLIN)

    def serve(self, fd: int) -> None:
        peer, begun = self.peers[fd]
        try:
            got = peer.recv(LINE_BYTES)
            *lines, rest = (begun + got).split(b"\n")
            if not got or len(rest) > LINE_BYTES:
                raise ConnectionError
            self.peers[fd] = peer, rest
            for line in lines:
                peer.sendall(self.answer(line.decode("ascii", "replace").split()).encode() + b"\n")
        except BlockingIOError:
            return
        except OSError:
            self.hang_up(fd)

    def hang_up(self, fd: int) -> None:
        self.poll.unregister(fd)
        self.peers.pop(fd)[0].close()

    def answer(self, words: list[str]) -> str:
        match words:
            case ["list"]:
                return " ".join(["ok", *self.held])
            case ["hold", task_id] if _SAFE.issuperset(task_id):
                return self.hold(task_id)
            case ["release", task_id]:
                for fd in self.held.pop(task_id, ()):
                    os.close(fd)
                return "ok"
        return "error not understood"

    def hold(self, task_id: str) -> str:
        if task_id in self.held:
            return "ok"
        fds: list[int] = []
        try:
            for stream in STREAMS:
                path = f"{FIFOS_NAME}/{task_id}/{stream}"
                fds.append(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            for fd in fds:
                os.close(fd)
            return f"error {error.strerror}"
        self.held[task_id] = fds
        return "ok"


def listen() -> _socket.socket:
    """A socket bound in the current directory, by its bare name: the whole path may be longer than the 107 bytes allowed."""
    if os.path.lexists(SOCKET_NAME):
        os.unlink(SOCKET_NAME)  # noqa: PTH108 -- no pathlib here
    os.umask(0o177)
    listener = _socket.socket(
        _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC, 0
    )
    listener.bind(SOCKET_NAME)
    listener.listen(BACKLOG)
    return listener


def detach() -> None:
    """Leave the parent: it sees this process end once the socket is there, and nothing of its terminal stays with us."""
    nothing = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    os.close(nothing)
    if os.fork():
        os._exit(0)


def main() -> None:
    os.chdir(sys.argv[1])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    listener = listen()
    detach()
    holder = Holder(listener)
    holder.run()
    if holder.can_be_found():
        os.unlink(SOCKET_NAME)  # noqa: PTH108 -- no pathlib here


if __name__ == "__main__":
    try:
        main()
    except OSError as fault:
        sys.exit(f"{fault.strerror}: {fault.filename or SOCKET_NAME}")
