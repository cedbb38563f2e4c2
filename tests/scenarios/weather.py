"""What happens to the link of a fleet: it is cut, in both directions or in one, or loses packets. And what a fleet must be like afterwards."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests import leaks
from tests.scenarios.fleet import Placed

LOST = "node_lost"
BOTH = ("INPUT", "OUTPUT")
_DIRECTION = {"INPUT": "-s", "OUTPUT": "-d"}
_SHIM = re.compile(r"containerd-shim\S* .*-id (\S+)")


@contextmanager
def cut(some: Sequence[Placed], others: Sequence[Placed], chains: Sequence[str] = BOTH) -> Iterator[None]:
    """What passes between *some* and *others* is dropped; with one of `BOTH` alone, what *some* are to hear, or what they say."""
    rules = [
        (one, (chain, _DIRECTION[chain], other.node.options["advertise"], "-j", "DROP"))
        for one in some
        for other in others
        for chain in chains
    ]
    with _rules(rules):
        yield


@contextmanager
def loss(placed: Sequence[Placed], share: float) -> Iterator[None]:
    """Each node hears only a part of what is sent to it."""
    rule = (
        "INPUT",
        "-i",
        "up0",
        "-m",
        "statistic",
        "--mode",
        "random",
        "--probability",
        str(share),
        "-j",
        "DROP",
    )
    with _rules([(one, rule) for one in placed]):
        yield


@contextmanager
def _rules(rules: Sequence[tuple[Placed, Sequence[str]]]) -> Iterator[None]:
    for one, rule in rules:
        one.host.run("iptables", "-I", *rule)
    try:
        yield
    finally:
        for one, rule in rules:
            one.host.run("iptables", "-D", *rule)


def containers(one: Placed, name: str = "") -> set[str]:
    """The id of every container of the node, of those whose ids begin with *name*."""
    lines = (line for _, line in leaks.processes(one.node.site()))
    found = (match[1] for line in lines if (match := _SHIM.search(line)))
    return {task_id for task_id in found if task_id.startswith(name)}


def records(one: Placed) -> dict[str, dict[str, Any]]:
    """What the node shows of all tasks of all nodes, without what passes; and without when those were lost that are: each node says when it heard so."""
    found = {record["id"]: {**record, "usage": None} for record in one.tasks()}
    for record in found.values():
        if record["reason"] == LOST:
            record["times"] = {**record["times"], "finished": None}
    return found


def differences(placed: Sequence[Placed]) -> list[Any]:
    """What nodes show of tasks otherwise than the first does."""
    first, *others = map(records, placed)
    return [
        (first.get(key), other.get(key))
        for other in others
        for key in {*first, *other}
        if first.get(key) != other.get(key)
    ]


def amiss(placed: Sequence[Placed]) -> list[str]:
    """Tasks that are shown to run and have no container on their node, or the other way round."""
    running = {(it["node"], key) for key, it in records(placed[0]).items() if it["status"] == "running"}
    there = {(one.name, task_id) for one in placed for task_id in containers(one)}
    return [
        *(f"{task} has no container" for task in running - there),
        *(f"{task} has one" for task in there - running),
    ]


def end_all(placed: Sequence[Placed]) -> None:
    placed[0].host.do(placed[0].node.end_all)
