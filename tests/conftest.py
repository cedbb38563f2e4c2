"""Nodes for every test: one shared by the cheap ones, fresh ones for those that crash, restart or fill theirs."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import settings

from tests.node import MakeNode, Node

settings.register_profile("mill", deadline=None)  # a loaded machine is no failure
settings.load_profile("mill")


def pytest_configure(config: pytest.Config) -> None:
    # httpx nests async generators; leaving a stream early closes the connection, but not each of them, of which trio warns.
    config.addinivalue_line("filterwarnings", "ignore:Async generator 'http:ResourceWarning")
    # As on a user's machine: unbuffered output would hide what a late flush does.
    os.environ.pop("PYTHONUNBUFFERED", None)
    # A shell that starts us in the background ignores SIGINT for us and all our children; tests of Ctrl-C need it back.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """One node for the whole run, with busybox loaded. Whoever uses it leaves it running, with no task alive."""
    node = Node(name="shared")
    try:
        node.start().load_busybox()
    except BaseException:
        node.destroy()
        raise
    yield node
    node.stop()


@pytest.fixture
def make_node() -> Iterator[MakeNode]:
    """Start nodes of one's own, options as of `Node`; each is stopped and checked for leaks at the test's end."""
    with ExitStack() as made:

        def make(*, busybox: bool = True, **options: Any) -> Node:
            node = Node(**options)
            try:
                node.start()
            except BaseException:
                node.destroy()
                raise
            made.callback(node.stop)
            return node.load_busybox() if busybox else node

        yield make


@pytest.fixture
def fresh_node(make_node: MakeNode) -> Node:
    return make_node(name="fresh")
