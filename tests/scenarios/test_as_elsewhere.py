"""What runs in Mill runs as it would elsewhere: the same odd images from the same registry, in Mill and by podman.

Every fact that the two sides do not share is in `EXPLAINED` with both sides' values, or the test fails; an explanation that
explains nothing fails too. ``pytest -s`` shows the table.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase

import attrs
import trio

from mill.cli import ends
from mill.client import Client
from mill.errors import FieldError
from tests.node import MakeNode, Node
from tests.odd_images import push_all
from tests.podman import Podman, podman
from tests.registry import Registry
from tests.scenarios import acts
from tests.scenarios.elsewhere import (
    CASES,
    Case,
    Outcome,
    extended,
    in_mill,
    in_podman,
    podman_flags,
    refused,
)

AT_ONCE = 4
NOTHING = "-"
WIDTH = 46


@attrs.frozen
class Differs:
    """Cases, a fact and its value on either side, each as a pattern of fnmatch, and why that is as it should be."""

    cases: str
    fact: str
    mill: str
    podman: str
    why: str


EXPLAINED = (
    Differs("nothing", "exit", "127", "125", "a start_error says which kind it is; that nothing was named is command_not_found"),
    Differs("user :video", "*", "*", "*", "a spawn's `user` names its user; of an image, USER :group is taken"),
    Differs("user *", "exit", "125", "126", "as Docker; podman exits with 126 for whatever its preparations refuse"),
    Differs("workdir*", "exit", "125", "126", "as Docker; podman exits with 126 for whatever its preparations refuse"),
    Differs("workdir-missing", "owner", "0:0 755", "1000:1001 755", "made for root as Docker does; podman gives it to the user"),
    Differs("workdir-missing", "writable", NOTHING, "yes", "made for root as Docker does; podman gives it to the user"),
    Differs("workdir-missing", "exit", "1", "0", "made for root as Docker does; podman gives it to the user"),
    Differs("workdir not there", "*", "*", "*", "a missing folder that was asked for is made, as Docker does; podman refuses"),
    Differs("env*", "HOSTNAME", "*-????", "????????????", "the host name is the task's id"),
    Differs("env*", "MILL_TASK_ADDRESS", "*-????.mill:8080", NOTHING, "what a task is told about itself"),
    Differs("env*", "MILL_TASK_ID", "*-????", NOTHING, "what a task is told about itself"),
    Differs("env*", "MILL_TASK_NODE", "elsewhere", NOTHING, "what a task is told about itself"),
    Differs("env*", "PORT", "8080", NOTHING, "what a task is told about itself"),
    Differs("env*", "TERM", NOTHING, "xterm", "podman sets it; Docker for a terminal alone, which no task has"),
    Differs("env*", "container", NOTHING, "podman", "podman names itself"),
    Differs("layers*", "./opaque", "dir 2775 1000:1001", "dir 755 0:0",
            "an opaque folder without an entry of its own keeps its owner in containerd; builders write the entry"),
    Differs("a hard link to a lower layer", "start", "invalid", "runtime", "Mill knows that the image is to blame"),
    Differs("inside*", "*resolv.conf*", "*", NOTHING, "podman gives none where there is no network; Mill the host's, as Docker"),
    Differs("inside*", "Max processes", "*", "4096 4096 processes", "Mill limits by the cgroup, as Docker; podman was told"),
    Differs("inside*", "NoNewPrivs", "1", "0", "Mill's rule: no program gains privileges"),
    Differs("inside*", "mount /dev", "tmpfs rw,nosuid,size=65536k,mode=755", "tmpfs rw,nosuid,noexec,*", "as Docker"),
    Differs("inside*", "mount /proc/*", "tmpfs rw,nosuid,size=65536k,mode=755", "tmpfs rw,nosuid,noexec,*", "as Docker: /dev/null"),
    Differs("inside*", "mount /dev/shm", "*size=65536k", "*size=64000k", "64 MiB as Docker"),
    Differs("inside*", "mount /run/.containerenv", NOTHING, "*", "podman's own file"),
    Differs("inside*", "mount /sys/dev/block", NOTHING, "*", "podman masks it too, Docker does not"),
    Differs("inside*", "net/ipv4/ip_unprivileged_port_start", "0", "1024", "every user may listen on port 80, as with Docker"),
    Differs("inside*", "net/ipv4/ping_group_range", "0\t2147483647", "*", "every user may ping, as with Docker"),
    Differs("inside*", "top", "* root sys *", "* root run sys *", "podman makes /run for its own file"),
    Differs("lone binary's files", "stdout", "*", "*/etc/mtab*/run/.containerenv", "podman's own, and no resolv.conf without network"),
    Differs("setuid", "exit", "232", "0", "Mill's rule: no program gains privileges; it ran as 1000, of which 232 is left"),
    Differs("read-only", "mount /data", "overlay rw,*", "ext4 rw,*", "the task's own layer is the volume"),
    Differs("volumes*", "mount /data", NOTHING, "*", "the task's own layer is the volume"),
    Differs("*", "mount /fresh/deep", "* rw,*", "* rw,nosuid,nodev,*", "a folder of the task's; as Docker without nosuid"),
    Differs("volumes, a user", "/e*", "not writable", "writable",
            "podman gives the user each folder that is a volume, here /etc; Docker and Mill keep the image's owner"),
    Differs("tmpfs*", "mount *", "tmpfs rw,nosuid,nodev,noexec,*", "tmpfs rw,nosuid,nodev,relatime*", "noexec as Docker"),
    Differs("tmpfs over content", "*seed", "*", "*", "podman copies the image's content into a tmpfs, Docker does not"),
)  # fmt: skip


async def test_odd_images_do_in_mill_what_they_do_in_podman(make_node: MakeNode, registry: Registry) -> None:
    """The node's umask is one that would show, if it did."""
    node = make_node(name="elsewhere", busybox=False, umask=0o077)
    await push_all(registry.host)
    sides: dict[str, tuple[Outcome, Outcome]] = {}
    limit = trio.CapacityLimiter(AT_ONCE)

    async def both(case: Case) -> None:
        async with limit:
            mill = await run_in_mill(case, node, client, registry)
            other = await trio.to_thread.run_sync(run_in_podman, case, peer, registry)
            sides[case.name] = mill, other

    with podman() as peer:
        async with Client(node.address, node.token) as client, trio.open_nursery() as nursery:
            for case in CASES:
                nursery.start_soon(both, case)
    differences = [(case.name, *found) for case in CASES for found in differing(*sides[case.name])]
    print(table(sides, differences))
    assert [found for found in differences if explanation(*found) is None] == []
    used = {explanation(*found) for found in differences}
    assert [entry for entry in EXPLAINED if entry not in used] == []


async def run_in_mill(case: Case, node: Node, client: Client, registry: Registry) -> Outcome:
    image = f"{registry.host}/{case.image}:1"
    try:
        task_id = await acts.spawn(client, image=image, network="none", **{"grace": 10, **case.fields})
    except FieldError as error:
        return refused(error.field, ends.MILL_FAILED, str(error))
    more = {}
    if case.stop:
        await acts.until_printed(client, task_id, "ready")
        if case.image == "layers":
            more = extended(acts.pid_one(node, task_id))
        await client.kill(task_id)
    record = await acts.end_of(client, task_id)
    out, err = [
        b"".join([line.data async for line in client.logs(task_id, follow=False, stream=stream)])
        for stream in ("stdout", "stderr")
    ]
    return in_mill(record, out, err, **more)


def run_in_podman(case: Case, peer: Podman, registry: Registry) -> Outcome:
    image, flags = f"{registry.host}/{case.image}:1", podman_flags(case.fields)
    args = case.fields.get("args", ())
    if not case.stop:
        done = peer.run(image, flags, args)
        return in_podman(done.returncode, done.stdout, done.stderr)
    name, more = case.name.replace(" ", "-"), {}
    with peer.start(image, [*flags, f"--name={name}"], args) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready == b"ready\n", (ready, process.communicate())
        if case.image == "layers":
            more = extended(int(peer.ask("inspect", "--format={{.State.Pid}}", name)))
        peer.ask("stop", f"--time={case.fields.get('grace', 10)}", name)
        out, err = process.communicate()
    return in_podman(process.returncode, ready + out, err, **more)


def differing(mill: Outcome, other: Outcome) -> Iterator[tuple[str, str, str]]:
    """Fact, Mill's value, podman's."""
    for fact in sorted({*mill.facts, *other.facts}):
        values = mill.facts.get(fact, NOTHING), other.facts.get(fact, NOTHING)
        if values[0] != values[1]:
            yield fact, *values


def explanation(case: str, fact: str, mill: str, other: str) -> Differs | None:
    for entry in EXPLAINED:
        patterns = (entry.cases, entry.fact, entry.mill, entry.podman)
        if all(map(fnmatchcase, (case, fact, mill, other), patterns)):
            return entry
    return None


def table(sides: dict[str, tuple[Outcome, Outcome]], differences: list[tuple[str, str, str, str]]) -> str:
    """A row for each case, and below it one for each fact that differs."""
    rows = [("case", "mill", "podman", "")]
    for case in CASES:
        mine = [found for found in differences if found[0] == case.name]
        shared = len({*sides[case.name][0].facts, *sides[case.name][1].facts}) - len(mine)
        verdict = f"same: {shared} facts" if not mine else f"{shared} the same, {len(mine)} not"
        mill_s, podman_s = sides[case.name]
        rows.append((case.name, in_short(mill_s), in_short(podman_s), verdict))
        for _, fact, mill, other in mine:
            entry = explanation(case.name, fact, mill, other)
            rows.append((f"    {fact}", mill, other, entry.why if entry else "NOT EXPLAINED"))
    return "\n" + "\n".join(" | ".join(cell(text) for text in row[:3]) + f" | {row[3]}" for row in rows)


def in_short(outcome: Outcome) -> str:
    facts = dict(outcome.facts)
    code, start = facts.pop("exit"), facts.pop("start", None)
    if start is not None:
        return f"no start: {start} ({code})"
    return f"exit {code}; " + ", ".join(f"{name}: {value}" for name, value in facts.items())


def cell(text: str) -> str:
    plain = text.replace("\t", " ").encode("ascii", "backslashreplace").decode()
    return (plain if len(plain) <= WIDTH else plain[: WIDTH - 2] + "..").ljust(WIDTH)
