"""What a task finds inside its container: environment, limits, users, mounts, networks, and the fences around it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mill.client import Client
from mill.model import Reason
from tests.images import busybox_image, write_oci_archive
from tests.node import MakeNode, Node
from tests.pace import stretched
from tests.scenarios.acts import cgroup_value, end_of, run, running, said

DOCKER_CAPABILITIES = "00000000a80425fb"
"""The fourteen that container runtimes leave by default, as /proc shows them."""

HOST_NETWORK = str(Path("/proc/self/ns/net").readlink())
HAS_SECCOMP_PROFILE = Path("/usr/share/containers/seccomp.json").exists()


@contextmanager
def loaded(node: Node, name: str, **config: Any) -> Iterator[str]:
    """An image of busybox with *config* (as OCI writes it), in the node's store."""
    archive = write_oci_archive(node.home / f"{name}.tar", {f"example.com/{name}:1": busybox_image(**config)})
    node.mill("images", "load", str(archive))
    yield f"example.com/{name}:1"


async def test_it_knows_who_and_where_it_is(client: Client, node: Node) -> None:
    script = "echo $MILL_TASK_ID; echo $MILL_TASK_ADDRESS; echo $MILL_TASK_NODE; echo $PORT; echo $GREETING; echo $MILL_TOKEN."
    text = await said(client, script, port=9090, env={"GREETING": "hello = world"})
    task_id, address, name, port, greeting, token = text.splitlines()
    assert address == f"{task_id}.mill:9090"
    assert (name, port, greeting, token) == (node.name, "9090", "hello = world", ".")


async def test_cpu_and_memory_are_limits_of_its_control_group(client: Client, node: Node) -> None:
    task_id = await running(client, "sleep", "100", cpu=0.5, memory="48M")
    limit = 48 * 1024**2
    assert int(cgroup_value(node, task_id, "memory/memory.limit_in_bytes", "memory.max")) == limit
    swap = cgroup_value(node, task_id, "memory/memory.memsw.limit_in_bytes", "memory.swap.max")
    assert int(swap) in {limit, 0}  # v1 counts memory and swap together
    quota = cgroup_value(node, task_id, "cpu/cpu.cfs_quota_us", "cpu.max").split()[0]
    assert int(quota) == 50_000
    assert 0 < int(cgroup_value(node, task_id, "pids/pids.max", "pids.max")) <= 65536
    stats = await client.stats(task_id)
    assert stats.memory_limit == limit
    assert 0 < stats.memory < limit
    assert stats.pids == 1
    await client.kill(task_id, grace=0)
    await end_of(client, task_id)


async def test_it_is_fenced_as_docker_does(client: Client) -> None:
    script = (
        "grep -E '^(CapEff|CapBnd|CapPrm|NoNewPrivs|Seccomp):' /proc/self/status; echo oom $(cat /proc/self/oom_score_adj);"
        "echo kcore $(head -c 10 /proc/kcore | wc -c); echo firmware $(ls /sys/firmware | wc -l);"
        "echo x 2>/dev/null >/proc/sys/kernel/hostname && echo sys writable; echo pid $$; echo devices $(ls /dev | wc -l);"
        "mount -t tmpfs x /tmp 2>/dev/null && echo could mount; id -u; ls -d /root"
    )
    text = await said(client, script)
    rows = dict(
        line.replace(":", "").split(None, 1) for line in text.splitlines() if " " in line or "\t" in line
    )
    assert rows["CapEff"] == rows["CapBnd"] == rows["CapPrm"] == DOCKER_CAPABILITIES
    assert rows["NoNewPrivs"] == "1"
    assert rows["Seccomp"] == ("2" if HAS_SECCOMP_PROFILE else "0")
    assert (rows["oom"], rows["kcore"], rows["firmware"], rows["pid"]) == ("0", "0", "0", "1")
    assert int(rows["devices"]) < 25
    assert "writable" not in text
    assert "could mount" not in text


async def test_its_files_of_names_are_its_own(client: Client) -> None:
    text = await said(client, "hostname; cat /etc/hostname; cat /etc/hosts; echo ---; cat /etc/resolv.conf")
    names, resolver = text.split("---")
    first, second, *hosts = names.splitlines()
    assert first == second
    assert any(line.split()[:2] == ["127.0.0.1", "localhost"] for line in hosts if line)
    assert "nameserver" in resolver


async def test_network_host_is_the_node_s_mesh_its_own_and_none_has_only_a_loopback(client: Client) -> None:
    script = "readlink /proc/self/ns/net; ls /sys/class/net; ip addr show lo | grep -c 'inet 127.0.0.1'"
    host = (await said(client, script, network="host")).split()
    assert host[0] == HOST_NETWORK
    mesh = (await said(client, script, network="mesh")).split()
    assert mesh[0] != host[0]
    assert mesh[1:] == ["eth0", "lo", "1"]
    none = (await said(client, script, network="none")).split()
    assert none[0] != host[0]
    assert none[1:] == ["lo", "1"]


async def test_read_only_and_a_tmpfs_of_a_size(client: Client) -> None:
    script = (
        "touch /x 2>/dev/null && echo root writable; touch /scratch/x && echo scratch writable;"
        "df -k /scratch | tail -n 1 | awk '{print $2}'; touch /fixed/x 2>/dev/null && echo fixed writable; true"
    )
    mounts = [
        {"type": "tmpfs", "target": "/scratch", "size": "1M"},
        {"type": "tmpfs", "target": "/fixed", "read_only": True},
    ]
    text = await said(client, script, read_only=True, mounts=mounts)
    assert text.splitlines() == ["scratch writable", "1024"]


async def test_a_writable_root_is_each_task_s_own(client: Client) -> None:
    assert await said(client, "echo mine >/x; cat /x") == "mine\n"
    assert await said(client, "ls /x 2>/dev/null || echo none") == "none\n"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("nobody", "65534:65534"),
        ("1234", "1234:0"),
        ("1234:4321", "1234:4321"),
        ("nobody:root", "65534:0"),
        ("0", "0:0"),
    ],
)
async def test_users_by_name_and_number(client: Client, user: str, expected: str) -> None:
    assert (await said(client, "echo $(id -u):$(id -g)", user=user)).strip() == expected


async def test_the_image_s_own_settings_are_the_defaults(client: Client, node: Node) -> None:
    config = {
        "Entrypoint": ["sh", "-c", 'echo "$(pwd) $(id -u) $COLOUR $0 $*"'],
        "Cmd": ["one", "two"],
        "Env": ["COLOUR=red", "PATH=/bin"],
        "User": "nobody",
        "WorkingDir": "/made/for/it",
    }
    with loaded(node, "settings", **config) as image:
        assert await said_by(client, image=image) == "/made/for/it 65534 red one two\n"
        assert await said_by(client, image=image, args=["three"]) == "/made/for/it 65534 red three \n"
        assert await said_by(client, image=image, command=["pwd"]) == "/made/for/it\n"
        changed = await said_by(client, image=image, env={"COLOUR": "blue"}, user="0", workdir="/tmp")
        assert changed == "/tmp 0 blue one two\n"


async def said_by(client: Client, **fields: object) -> str:
    record = await run(client, **fields)
    assert record.exit_code == 0, record.message
    return b"".join([line.data async for line in client.logs(record.id, follow=False)]).decode()


async def test_the_image_s_stop_signal_is_used(client: Client, node: Node) -> None:
    with loaded(node, "stops", StopSignal="SIGUSR2") as image:
        script = "trap 'exit 12' USR2; while :; do sleep 0.02; done"
        task_id = await running(client, image=image, command=["sh", "-c", script], grace=stretched(20))
        await client.kill(task_id)
        record = await end_of(client, task_id)
        assert (record.reason, record.exit_code) == (Reason.KILLED, 12)


async def test_a_bind_mount_only_where_the_node_allows_it(make_node: MakeNode, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/file").write_text("from the host\n")
    node = make_node(
        name="binds", options={"allow-mounts": str(tmp_path / "shared"), "cpu": "4", "memory": "4G"}
    )
    async with Client(node.address, node.token) as client:
        mount = {"type": "bind", "source": str(tmp_path / "shared"), "target": "/data"}
        assert await said(client, "cat /data/file; echo back >/data/new", mounts=[mount]) == "from the host\n"
        assert (tmp_path / "shared/new").read_text() == "back\n"
        script = "touch /data/no 2>/dev/null || echo fixed"
        assert await said(client, script, mounts=[{**mount, "read_only": True}]) == "fixed\n"
    for source in ("/etc", str(tmp_path), f"{tmp_path}/shared/../other"):
        body = {"image": "busybox", "mounts": [{**mount, "source": source}]}
        answer = node.api("POST", "/v1/tasks/spawn", json=body)
        assert (answer.status_code, answer.json()["field"]) == (400, "mounts[0].source")
