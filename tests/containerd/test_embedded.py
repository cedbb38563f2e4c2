"""The private containerd: start, death, restart, adoption, stop; with the real one and with fakes that fail to start."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import structlog
import trio
from google.protobuf.empty_pb2 import Empty

from mill.containerd import embedded, rpcs
from mill.containerd import place as place_module
from mill.containerd import session as session_service
from mill.containerd.embedded import find_system_socket
from mill.containerd.endpoint import listener_pid
from mill.containerd.faults import RpcUnavailable
from mill.containerd.place import Place
from mill.containerd.proto import events_pb2
from mill.containerd.session import Session, probe
from mill.errors import SetupError
from tests.containerd.conftest import RUN_EMBEDDED
from tests.containerd.wire import until


def processes_of(data_dir: Path) -> list[int]:
    """Every process whose command line names this containerd's configuration."""
    config, found = os.fsencode(data_dir / "containerd/config.toml"), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if config in line.split(b"\0"):
                found.append(int(entry.name))
    return found


def fake_containerd(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program called containerd that does as *script* says, found first."""
    (directory / "bin").mkdir()
    program = directory / "bin/containerd"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


async def test_it_starts_answers_and_goes_leaving_no_process_and_no_socket(data_dir: Path) -> None:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(5):
            socket = await nursery.start(embedded.serve, data_dir)
        assert socket == str(data_dir / "containerd/containerd.sock")
        assert await probe(socket)
        assert processes_of(data_dir) == [listener_pid(socket)]
        nursery.cancel_scope.cancel()
    assert processes_of(data_dir) == []
    assert not await trio.Path(data_dir / "containerd/containerd.sock").exists()
    assert not await trio.Path(data_dir / "containerd/containerd.sock.ttrpc").exists()


async def test_its_directories_are_closed_to_others_and_its_session_is_its_own(data_dir: Path) -> None:
    async with trio.open_nursery() as nursery:
        pid = listener_pid(await nursery.start(embedded.serve, data_dir))
        assert pid is not None
        for name in ("containerd", "containerd/root", "containerd/state"):
            assert stat.S_IMODE((await trio.Path(data_dir / name).stat()).st_mode) == 0o700
        assert os.getsid(pid) == pid
        nursery.cancel_scope.cancel()


async def test_it_hears_nothing_of_what_is_meant_for_milld(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILL_TOKEN", "s3cret")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("PATH", "/usr/bin")
    async with trio.open_nursery() as nursery:
        pid = listener_pid(await nursery.start(embedded.serve, data_dir))
        environment = await trio.Path(f"/proc/{pid}/environ").read_bytes()
        assert b"s3cret" not in environment
        assert b"NOTIFY_SOCKET" not in environment
        assert b":/usr/sbin" in environment
        nursery.cancel_scope.cancel()


async def test_what_it_makes_for_containers_is_open_to_them_whatever_milld_s_umask_is(data_dir: Path) -> None:
    before = os.umask(0o077)
    try:
        async with trio.open_nursery() as nursery:
            socket = await nursery.start(embedded.serve, data_dir)
            status = await trio.Path(f"/proc/{listener_pid(socket)}/status").read_text()
            nursery.cancel_scope.cancel()
    finally:
        os.umask(before)
    assert "Umask:\t0022" in status


async def test_killed_it_is_back_and_the_session_with_it(data_dir: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            socket = await nursery.start(embedded.serve, data_dir)
            session: Session = await nursery.start(session_service.serve, socket)
            features = session.features
            session.features = session_service.Features(version="", plugins=frozenset())
            first = listener_pid(socket)
            assert first is not None
            async with session.stream(rpcs.EVENTS_SUBSCRIBE) as events:
                await events.send(events_pb2.SubscribeRequest())
                os.kill(first, signal.SIGKILL)
                with trio.fail_after(3), pytest.raises(RpcUnavailable):
                    await events.receive()
            await until(lambda: not session.connected)
            with trio.fail_after(0.5), pytest.raises(RpcUnavailable):
                await session.call(rpcs.VERSION, Empty())
            with trio.fail_after(3):
                await session.wait_connected()
                await session.call(rpcs.VERSION, Empty())
            assert session.features == features
            assert processes_of(data_dir) == [listener_pid(socket)] != [first]
            nursery.cancel_scope.cancel()
    said = [line["event"] for line in lines]
    assert sorted(said) == [
        "containerd is back",
        "containerd is down, starting it again",
        "containerd is gone",
    ]
    assert any(line.get("how") == "ended by SIGKILL" for line in lines)


async def test_killed_again_and_again_it_waits_longer_each_time(data_dir: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            socket = await nursery.start(embedded.serve, data_dir)
            for _ in range(3):
                await until(lambda: listener_pid(socket) is not None)
                pid = listener_pid(socket)
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await until(lambda before=pid: listener_pid(socket) not in {before, None})  # type: ignore[misc]
            nursery.cancel_scope.cancel()
    assert [line["in_s"] for line in lines if "in_s" in line] == [0.1, 0.2, 0.4]


async def test_what_a_killed_milld_left_running_is_adopted_and_watched(data_dir: Path) -> None:
    milld = await trio.lowlevel.open_process(
        [sys.executable, "-c", RUN_EMBEDDED, str(data_dir)], stdout=subprocess.PIPE
    )
    assert milld.stdout is not None
    socket = (await milld.stdout.receive_some()).decode().strip()
    pid = listener_pid(socket)
    assert pid is not None
    milld.kill()
    await milld.wait()
    await milld.stdout.aclose()
    async with trio.open_nursery() as nursery:
        assert await nursery.start(embedded.serve, data_dir) == socket
        assert listener_pid(socket) == pid
        assert processes_of(data_dir) == [pid]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: listener_pid(socket) not in {pid, None})
        nursery.cancel_scope.cancel()
    assert processes_of(data_dir) == []


async def test_one_that_was_just_being_started_wins_over_a_second(data_dir: Path) -> None:
    place = Place(data_dir / "containerd")
    place.prepare()
    binary = shutil.which("containerd")
    assert binary is not None
    earlier = await trio.lowlevel.open_process(
        [binary, "--config", str(place.config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    metadata = data_dir / "containerd/root/io.containerd.metadata.v1.bolt/meta.db"
    await until(metadata.exists)
    async with trio.open_nursery() as nursery:
        socket = await nursery.start(embedded.serve, data_dir)
        assert listener_pid(socket) == earlier.pid
        assert processes_of(data_dir) == [earlier.pid]
        nursery.cancel_scope.cancel()
    assert await earlier.wait() == 0


HANG = """
import signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print(flush=True)
signal.pause()
"""


async def test_an_adopted_one_that_hangs_is_replaced(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "ADOPT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.2)
    place = Place(data_dir / "containerd")
    place.prepare()
    hung = await trio.lowlevel.open_process(
        [sys.executable, "-c", HANG, place.socket], stdout=subprocess.PIPE
    )
    assert hung.stdout is not None
    await hung.stdout.receive_some()
    async with trio.open_nursery() as nursery:
        socket = await nursery.start(embedded.serve, data_dir)
        assert await hung.wait() == -signal.SIGKILL
        assert await probe(socket)
        nursery.cancel_scope.cancel()
    await hung.stdout.aclose()


async def test_not_installed_is_one_line_that_says_what_to_do(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "search_path", lambda: str(data_dir))
    with pytest.raises(SetupError, match="apt-get install containerd"):
        await embedded.serve(data_dir)
    assert not await trio.Path(data_dir / "containerd").exists()


async def test_a_long_data_directory_is_one_line_that_says_what_to_do(data_dir: Path) -> None:
    deep = data_dir / ("d" * 80)
    with pytest.raises(SetupError, match="choose a shorter --data-dir"):
        await embedded.serve(deep)
    assert not deep.exists()


async def test_a_data_directory_that_cannot_be_made_is_one_line(data_dir: Path) -> None:
    (data_dir / "file").write_text("")
    with pytest.raises(SetupError, match="Not a directory"):
        await embedded.serve(data_dir / "file")


async def test_one_that_ends_while_starting_is_quoted(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_containerd(data_dir, "echo first >&2; echo containerd: no room on disk >&2; exit 3", monkeypatch)
    with pytest.raises(
        SetupError, match="ended with code 3 while starting: containerd: no room on disk"
    ) as ended:
        await embedded.serve(data_dir)
    assert "\n" not in str(ended.value)


async def test_one_that_never_answers_is_ended(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.3)
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.2)
    fake_containerd(data_dir, "trap '' TERM; while :; do sleep 0.05; done", monkeypatch)
    with pytest.raises(SetupError, match="did not answer"):
        await embedded.serve(data_dir)
    assert processes_of(data_dir) == []


async def test_cancelled_while_it_starts_nothing_is_left(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_containerd(data_dir, f"touch {data_dir}/up; exec sleep 100", monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(embedded.serve, data_dir)
        await until((data_dir / "up").exists)
        nursery.cancel_scope.cancel()
    await until(lambda: not processes_of(data_dir))


async def test_a_large_log_is_set_aside(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place_module, "LOG_BYTES", 10)
    place = Place(data_dir / "containerd")
    place.prepare()
    place.log.write_text("of long ago, and long")
    async with trio.open_nursery() as nursery:
        await nursery.start(embedded.serve, data_dir)
        nursery.cancel_scope.cancel()
    assert place.log.with_suffix(".log.1").read_text() == "of long ago, and long"
    assert "long ago" not in place.log.read_text()


async def test_a_system_socket_counts_when_it_answers(containerd_socket: str, data_dir: Path) -> None:
    assert await find_system_socket(containerd_socket) == containerd_socket
    assert await find_system_socket(str(data_dir / "none")) is None


def test_paths_with_quotes_and_backslashes_stay_themselves_in_the_configuration() -> None:
    place = Place(Path('/tmp/a"b\\c/containerd'))
    read = tomllib.loads(place._config())
    assert read["root"] == str(place.directory / "root")
    assert read["grpc"]["address"] == place.socket
    assert all(
        name.count(".") >= 3 for name in read["disabled_plugins"]
    )  # containerd refuses anything shorter
