"""Network namespaces that stand for hosts: made, joined by one link, and gone afterwards. Called by the tests of the mesh.

What a `Host` does runs in a thread that has entered its namespace: sockets and processes made there are in it.
"""

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ctypes import CDLL
from typing import Any, TypeVar

import attrs

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, (command, done.stderr)
    return done.stdout


def _enter(name: str) -> None:
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    assert CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) == 0
    os.close(descriptor)


@attrs.frozen
class Host:
    """A named namespace with a loopback of its own."""

    name: str
    thread: ThreadPoolExecutor

    def do(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        return self.thread.submit(work, *args, **options).result()

    def run(self, *command: str, check: bool = True) -> str:
        return self.do(run, *command, check=check)


@contextmanager
def hosts(*addresses: str) -> Iterator[list[Host]]:
    """One namespace an address, all on one link of their own."""
    names = [f"mt{os.getpid()}-{next(_numbers)}" for _ in addresses]
    wire = f"mw{os.getpid()}-{next(_numbers)}"
    with ExitStack() as made:
        for name in (wire, *names):
            run("ip", "netns", "add", name)
            made.callback(run, "ip", "netns", "delete", name, check=False)
        run("ip", "-n", wire, "link", "add", "wire", "type", "bridge")
        run("ip", "-n", wire, "link", "set", "wire", "up")
        for number, (name, address) in enumerate(zip(names, addresses, strict=True)):
            run("ip", "-n", name, "link", "set", "lo", "up")
            peer = ("peer", "name", f"w{number}", "netns", wire)
            run("ip", "-n", name, "link", "add", "up0", "type", "veth", *peer)
            run("ip", "-n", wire, "link", "set", f"w{number}", "master", "wire", "up")
            run("ip", "-n", name, "link", "set", "up0", "up")
            run("ip", "-n", name, "addr", "add", address, "dev", "up0")
        threads = [ThreadPoolExecutor(1, initializer=_enter, initargs=(name,)) for name in names]
        for thread in threads:
            made.callback(thread.shutdown)
        yield [Host(name, thread) for name, thread in zip(names, threads, strict=True)]
