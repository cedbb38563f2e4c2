"""The API off loopback: TLS and nothing else, trusted by whoever has the cluster's authority, found by itself on the node."""

import socket
import ssl
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import attrs
import pytest

from mill.security.keys import Secret
from tests.node import MILL, MakeNode, Node
from tests.world import Host, hosts

HERE, THERE = "10.250.30.1", "10.250.30.9"
ETH_P_ALL = 3
URL = f"https://{HERE}:4400"


@attrs.frozen
class Place:
    """A node on one host that serves the API to all, and another host with no more than what an admin copied to it."""

    home: Host
    there: Host
    node: Node
    folder: Path

    def mill(self, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """`mill` on the other host."""
        clean = {key: value for key, value in self.node.env().items() if not key.startswith("MILL_")}
        said = {"MILL_ADDRESS": URL, "MILL_TOKEN": self.node.token, "MILL_CA": str(self.ca), **environ}
        env = {
            **clean,
            "MILL_DATA_DIR": "/nonexistent",
            **{key: value for key, value in said.items() if value},
        }
        done: subprocess.CompletedProcess[str] = self.there.do(
            subprocess.run, [*MILL, *args], capture_output=True, text=True, env=env, timeout=60, check=False
        )
        return done

    def refused(self, *args: str, code: int = 1, **environ: str) -> str:
        """The one line."""
        done = self.mill(*args, **environ)
        assert done.returncode == code, done
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        return done.stderr

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with hosts(f"{HERE}/24", f"{THERE}/24") as [home, there], ExitStack() as nodes:
        options = {
            "cpu": "8",
            "memory": "8G",
            "advertise": HERE,
            "listen": "0.0.0.0:4400",
            "tls-names": "mill.test",
        }
        node = Node(name="tls", options=options)
        nodes.callback(home.do, node.stop)
        home.do(lambda: node.start().load_busybox())
        made = Place(home, there, node, tmp_path_factory.mktemp("admin"))
        made.ca.write_bytes((node.data_dir / "ca.pem").read_bytes())
        yield made


def test_the_first_start_makes_the_secret_for_root_and_the_authority_for_all(place: Place) -> None:
    folder = place.node.data_dir
    assert stat.S_IMODE((folder / "cluster.secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "ca.pem").stat().st_mode) == 0o644
    secret = (folder / "cluster.secret").read_text().strip().rpartition("-")[2]
    assert secret not in place.node.log.read_text()
    assert place.node.ready["api"] == "https://127.0.0.1:4400"


def test_on_the_node_all_is_found_without_being_set(place: Place) -> None:
    assert "tls" in place.home.do(place.node.mill, "status").stdout
    shown = place.home.do(place.node.mill, "run", "--image", "busybox", "--memory", "16M", "--", "echo", "hi")
    assert shown.stdout == "hi\n"
    assert "answers at https://127.0.0.1:4400" in place.home.do(place.node.mill, "doctor", check=False).stdout


def test_from_elsewhere_it_takes_address_token_and_authority(place: Place) -> None:
    assert place.mill("run", "--image", "busybox", "--memory", "16M", "--", "echo", "hi").stdout == "hi\n"
    assert (
        place.mill("ps", MILL_ADDRESS=f"{HERE}:4400").returncode == 0
    )  # off loopback it is https unless said


def test_the_authority_outlives_a_restart(place: Place) -> None:
    place.home.do(place.node.restart)
    assert place.mill("ps").returncode == 0


def test_without_the_authority_it_is_one_line_and_nothing_is_sent(place: Place) -> None:
    assert "set MILL_CA to a copy of ca.pem" in place.refused("ps", MILL_CA="")


def test_http_to_it_is_one_line(place: Place) -> None:
    line = place.refused("ps", code=2, MILL_ADDRESS=f"http://{HERE}:4400")
    assert "this port speaks TLS: write https://" in line


def test_a_name_is_good_that_milld_was_told(place: Place) -> None:
    context = ssl.create_default_context(cafile=place.ca)
    assert place.there.do(handshake, context, "mill.test") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        place.there.do(handshake, context, "other.test")


def test_tls_1_2_is_refused(place: Place) -> None:
    context = ssl.create_default_context(cafile=place.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        place.there.do(handshake, context, HERE)


def test_curl_agrees(place: Place) -> None:
    """TLS by somebody else's hand, with the authority alone."""
    command = ["curl", "-sS", "--cacert", str(place.ca), f"{URL}/healthz"]
    assert '"ok"' in place.there.run(*command)
    wrong = place.there.do(subprocess.run, [*command, "--tls-max", "1.2"], capture_output=True, check=False)
    assert wrong.returncode == 35  # CURLE_SSL_CONNECT_ERROR


def test_nothing_that_a_user_says_or_is_told_can_be_read_on_the_way(place: Place) -> None:
    """As one sees it who sits on the node's link."""
    tap = place.home.do(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    try:
        tap.bind(("up0", 0))
        tap.settimeout(0.5)
        done = place.mill(
            "run", "--image", "busybox", "--memory", "16M", "--env", "WORD=whispered", "--", "echo", "spoken"
        )
        assert done.stdout == "spoken\n"
        seen = b"".join(iter(partial(_frame, tap), b""))
    finally:
        tap.close()
    assert len(seen) > 5000
    for word in (place.node.token, "busybox", "whispered", "spoken", "/v1/tasks", "Bearer"):
        assert word.encode() not in seen


def test_when_the_secret_is_changed_clients_elsewhere_need_the_new_authority_and_no_new_token(
    place: Place,
) -> None:
    """On the node itself all is found as before."""
    said = place.mill("nodes", "rotate-secret")
    assert said.stdout.startswith("secret "), said
    assert "clients elsewhere" in said.stderr
    assert "set MILL_CA to a copy of ca.pem" in place.refused("ps")
    assert "tls" in place.home.do(place.node.mill, "status").stdout
    place.ca.write_bytes((place.node.data_dir / "ca.pem").read_bytes())
    assert place.mill("ps").returncode == 0
    place.home.do(place.node.restart)
    assert place.mill("ps").returncode == 0


def _frame(tap: socket.socket) -> bytes:
    try:
        return tap.recv(65536)
    except TimeoutError:
        return b""


# -- a secret given to a new node -----------------------------------------------------------------------------------


def test_nodes_of_one_secret_are_trusted_by_one_file(make_node: MakeNode, tmp_path: Path) -> None:
    first = make_node(name="first", busybox=False)
    secret = (first.data_dir / "cluster.secret").read_text()
    (tmp_path / "given").write_text(secret)
    by_file = make_node(name="file", busybox=False, options={"secret-file": str(tmp_path / "given")})
    by_environ = make_node(name="environ", busybox=False, environ={"MILL_SECRET": secret.strip()})
    pems = {(node.data_dir / "ca.pem").read_text() for node in (first, by_file, by_environ)}
    assert len(pems) == 1
    for pid in set(by_environ.at_rest()) - {by_environ.pid}:
        assert b"MILL_SECRET" not in Path(f"/proc/{pid}/environ").read_bytes()
    for node in (by_file, by_environ):
        assert secret.rpartition("-")[2].strip() not in node.log.read_text()


def test_a_node_keeps_its_cluster(make_node: MakeNode) -> None:
    node = make_node(name="loyal", busybox=False)
    secret = (node.data_dir / "cluster.secret").read_text()
    node.terminate()
    other = Secret(b"o" * 32).text
    for given, told in [(other, "another secret"), ("nonsense", "MILL_SECRET: is no cluster secret")]:
        env = {**node.env(), "MILL_SECRET": given}
        done = subprocess.run(
            node.command(), capture_output=True, text=True, env=env, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr.splitlines()[-1]
        assert given not in done.stderr
    node.start()
    assert (node.data_dir / "cluster.secret").read_text() == secret


def handshake(context: ssl.SSLContext, name: str) -> str | None:
    with (
        socket.create_connection((HERE, 4400), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        return secured.version()
