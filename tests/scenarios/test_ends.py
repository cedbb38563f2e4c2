"""Every row of the design's table of ends, but `node_lost`, on a real containerd: status, reason and what else it must say."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from mill.client import Client
from mill.model import Reason, Record, Status
from tests import leaks
from tests import registry as real
from tests.images import busybox_image, push
from tests.node import RUNTIME, MakeNode, Node, free_port
from tests.pace import stretched
from tests.scenarios.acts import (
    EAT,
    SMALL,
    cleaned_up,
    end_of,
    pid_one,
    run,
    running,
    shim_of,
    spawn,
    until_printed,
)
from tests.scenarios.bad_registry import BadRegistry


def check_times(record: Record) -> None:
    """Every phase that was passed has its time, in order."""
    times = record.times
    passed = [times.created, times.pulled, times.started, times.finished]
    known = [time for time in passed if time is not None]
    assert known == sorted(known)
    assert times.finished is not None
    assert record.message
    assert "\n" not in record.message


async def test_exit_0_is_stopped_by_exit(client: Client) -> None:
    record = await run(client, "true")
    assert (record.status, record.reason, record.exit_code) == (Status.STOPPED, Reason.EXIT, 0)
    assert record.signal is None
    assert record.peak_memory
    assert None not in {record.times.pulled, record.times.started}
    check_times(record)


async def test_a_non_zero_exit_is_failed_by_exit_with_its_code(client: Client) -> None:
    record = await run(client, "sh", "-c", "exit 42")
    assert (record.status, record.reason, record.exit_code) == (Status.FAILED, Reason.EXIT, 42)
    check_times(record)


async def test_a_crash_is_failed_by_signal_with_number_and_name(client: Client) -> None:
    """Endless recursion runs off the stack: a fault, which ends even PID 1."""
    record = await run(client, "sh", "-c", "ulimit -s 256; f() { f; }; f")
    assert (record.status, record.reason, record.signal) == (Status.FAILED, Reason.SIGNAL, signal.SIGSEGV)
    assert "SIGSEGV" in f"{record.detail} {record.message}"
    check_times(record)


async def test_a_sigkill_from_elsewhere_is_a_signal_and_not_an_oom(client: Client, node: Node) -> None:
    task_id = await running(client, "sleep", "100")
    os.kill(pid_one(node, task_id), signal.SIGKILL)
    record = await end_of(client, task_id)
    assert (record.status, record.reason, record.signal) == (Status.FAILED, Reason.SIGNAL, signal.SIGKILL)
    assert record.oom_kills == 0


async def test_the_memory_limit_is_told_from_other_deaths(client: Client) -> None:
    record = await run(client, "sh", "-c", EAT, memory="16M")
    assert (record.status, record.reason, record.signal) == (Status.FAILED, Reason.OOM, signal.SIGKILL)
    assert record.oom_kills >= 1
    assert record.peak_memory is not None
    assert record.peak_memory > 12 * 1024**2
    check_times(record)


async def test_a_memory_kill_that_pid_1_survives_is_counted_and_not_fatal(client: Client) -> None:
    record = await run(client, "sh", "-c", f"({EAT}); exit 5", memory="16M")
    assert (record.status, record.reason, record.exit_code) == (Status.FAILED, Reason.EXIT, 5)
    assert record.oom_kills >= 1


async def test_a_timeout_ends_a_task_that_ignores_its_signal(client: Client) -> None:
    record = await run(client, "sleep", "100", timeout=0.4, grace=0.2)
    assert (record.status, record.reason, record.signal) == (Status.FAILED, Reason.TIMEOUT, signal.SIGKILL)
    assert record.times.started is not None
    assert record.times.finished is not None
    assert 0.4 <= record.times.finished - record.times.started < stretched(3)
    check_times(record)


async def test_a_task_that_obeys_at_its_timeout_still_timed_out(client: Client) -> None:
    record = await run(
        client,
        "sh",
        "-c",
        "trap 'exit 0' TERM; while :; do sleep 0.02; done",
        timeout=stretched(0.3),
        grace=stretched(10),
    )
    assert (record.status, record.reason, record.exit_code) == (Status.FAILED, Reason.TIMEOUT, 0)


# -- pull_error -----------------------------------------------------------------------------------------------------


async def pull_failure(client: Client, image: str, **fields: object) -> Record:
    record = await run(client, image=image, **fields)
    assert (record.status, record.reason) == (Status.FAILED, Reason.PULL_ERROR)
    assert record.exit_code is None
    assert record.times.started is None
    assert record.message is not None
    assert image.split(":", maxsplit=1)[0] in record.message or image in record.message
    check_times(record)
    return record


async def test_a_registry_that_wants_a_password_is_a_pull_error_of_auth(
    client: Client, private_registry: real.Registry
) -> None:
    image = f"{private_registry.host}/secret/app:1"
    assert (await pull_failure(client, image)).detail == "auth"


async def test_an_unknown_image_is_a_pull_error_of_not_found(client: Client, registry: real.Registry) -> None:
    assert (await pull_failure(client, f"{registry.host}/no/such:tag")).detail == "not_found"


async def test_a_registry_that_is_not_there_is_a_pull_error_of_network(client: Client) -> None:
    record = await pull_failure(client, f"127.0.0.1:{free_port()}/some/app:1", pull_timeout=stretched(15))
    assert record.detail == "network"


async def test_a_layer_that_is_not_what_its_digest_says_is_a_pull_error_of_digest(
    client: Client, bad: BadRegistry
) -> None:
    bad.garble = True
    assert (await pull_failure(client, f"{bad.host}/garbled/app:1")).detail == "digest"


async def test_a_pull_that_takes_too_long_is_a_pull_error_of_timeout(
    client: Client, bad: BadRegistry
) -> None:
    bad.stall = True
    assert (await pull_failure(client, f"{bad.host}/slow/app:1", pull_timeout=0.5)).detail == "timeout"


@pytest.mark.parametrize(
    "manifest", [b"not json", b'{"schemaVersion": 2}', b'{"schemaVersion": 1, "fsLayers": []}']
)
async def test_a_manifest_that_is_none_is_a_pull_error_of_invalid(
    client: Client, bad: BadRegistry, manifest: bytes
) -> None:
    bad.manifest = manifest
    assert (await pull_failure(client, f"{bad.host}/nonsense/app:1")).detail == "invalid"


async def test_pull_never_does_not_pull(client: Client, bad: BadRegistry) -> None:
    record = await pull_failure(client, f"{bad.host}/not/here:1", pull="never")
    assert record.detail == "not_found"
    assert bad.requests == []


async def test_a_pulled_image_runs_and_pull_always_asks_again(
    client: Client, registry: real.Registry
) -> None:
    await push(busybox_image(compression="gzip", Cmd=["echo", "one"]), registry.host, "some/app", "1")
    image = f"{registry.host}/some/app:1"
    first = await run(client, image=image)
    assert (first.reason, first.exit_code) == (Reason.EXIT, 0), first.message
    await push(busybox_image(compression="gzip", Cmd=["sh", "-c", "exit 7"]), registry.host, "some/app", "1")
    assert (await run(client, image=image)).exit_code == 0
    assert (await run(client, image=image, pull="always")).exit_code == 7


# -- start_error ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "detail", "told"),
    [
        ({"command": ["no-such-program"]}, "command_not_found", "no-such-program"),
        ({"command": ["/no/such/program"]}, "command_not_found", "/no/such/program"),
        ({"command": ["/etc/passwd"]}, "permission", "/etc/passwd"),
        ({"user": "nosuchuser"}, "user", "nosuchuser"),
        ({"user": "nobody:nosuchgroup"}, "user", "nosuchgroup"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_start_is_a_start_error(
    client: Client, fields: dict[str, object], detail: str, told: str
) -> None:
    record = await run(client, **fields)
    assert (record.status, record.reason, record.detail) == (Status.FAILED, Reason.START_ERROR, detail)
    assert record.message is not None
    assert told in record.message
    assert record.exit_code is None
    assert record.times.started is None
    check_times(record)


async def test_a_runtime_that_fails_is_a_start_error_of_runtime(make_node: MakeNode, tmp_path: Path) -> None:
    runtime = tmp_path / "runtime"
    runtime.write_text(f'#!/bin/sh\ncase "$*" in *" create "*) exit 1 ;; esac\nexec {RUNTIME} "$@"\n')
    runtime.chmod(0o755)
    node = make_node(name="luckless", options={"cpu": "4", "memory": "4G", "runtime": str(runtime)})
    async with Client(node.address, node.token) as client:
        record = await run(client, "true")
    assert (record.status, record.reason, record.detail) == (Status.FAILED, Reason.START_ERROR, "runtime")
    assert "exit status 1" in (record.message or "")
    check_times(record)


async def test_a_start_error_says_so_on_the_command_line(node: Node) -> None:
    done = node.mill("run", "--image", "busybox", "--memory", "32M", "--", "no-such-program", check=False)
    assert done.returncode != 0
    assert "no-such-program" in done.stderr
    assert "Traceback" not in done.stderr


# -- interrupted, killed --------------------------------------------------------------------------------------------


async def test_a_lost_shim_is_interrupted_without_an_exit_code(client: Client, node: Node) -> None:
    task_id = await running(client, "sleep", "100")
    os.kill(shim_of(node, task_id), signal.SIGKILL)
    record = await end_of(client, task_id)
    assert (record.status, record.reason, record.exit_code) == (Status.FAILED, Reason.INTERRUPTED, None)
    check_times(record)
    await cleaned_up(client, task_id)
    assert not leaks.shim_socket(
        node.site().socket, task_id
    ).exists()  # which containerd leaves when it loses a shim


async def test_killed_says_who_and_which_signal(client: Client) -> None:
    task_id = await spawn(
        client,
        "sh",
        "-c",
        "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.02; done",
        grace=stretched(10),
    )
    await until_printed(client, task_id, "ready")
    await client.kill(task_id)
    record = await end_of(client, task_id)
    assert (record.status, record.reason, record.exit_code) == (Status.STOPPED, Reason.KILLED, 3)
    assert record.message is not None
    assert "SIGTERM" in record.message or "code 3" in record.message
    assert record.detail
    check_times(record)


async def test_the_end_of_a_task_is_the_same_from_every_door(client: Client, node: Node) -> None:
    """GET, list and `mill inspect --json` agree, and a kill changes nothing any more: terminal is terminal."""
    record = await cleaned_up(client, (await run(client, "sh", "-c", "exit 9")).id)
    answer = node.api("DELETE", f"/v1/tasks/{record.id}")
    assert answer.status_code == httpx.codes.OK
    assert await client.get(record.id) == record
    listed = await client.list_tasks(all=True, status=["failed"])
    assert [r for r in listed if r.id == record.id] == [record]
    assert '"exit_code": 9' in node.mill("inspect", record.id, "--json").stdout


async def test_the_defaults_of_a_task_are_the_design_s(client: Client) -> None:
    record = await client.get((await client.spawn(image="busybox", args=["true"])).id)
    spec = record.spec
    assert [spec.cpu, spec.memory, spec.timeout, spec.pull_timeout] == [0.25, 256 * 1024**2, 3600, 600]
    assert [spec.port, spec.grace, str(spec.network), str(spec.pull)] == [8080, 10, "mesh", "missing"]
    assert record.address == f"{record.id}.mill:8080"
    await end_of(client, record.id)


async def test_the_values_of_env_stay_with_the_owner(client: Client) -> None:
    record = await run(client, "true", env={"SECRET": "hush-hush"})
    assert dict(record.spec.env) == {"SECRET": None}
    assert SMALL["image"] == record.spec.image
