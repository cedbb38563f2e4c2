"""Three real nodes as one cluster: they find each other, say the same, and bear the loss of any of them."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.node import ROOT
from tests.scenarios.fleet import Placed, everywhere, fleet, make

Fleet = list[Placed]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    archive = tmp_path_factory.mktemp("images") / "busybox.tar"
    subprocess.run(
        [sys.executable, ROOT / "examples/busybox_image.py", archive], check=True, capture_output=True
    )
    began = time.monotonic()
    with fleet(3, archive) as placed:
        print(f"three nodes after {time.monotonic() - began:.1f} s")
        yield placed


def test_every_node_lists_all_and_knows_who_leads(three: Fleet) -> None:
    for one in three:
        assert one.nodes() == {"n1": "alive", "n2": "alive", "n3": "alive"}
        assert next(line.split()[0] for line in one.mill("nodes").splitlines()[1:]) == one.name
        status = one.get("/v1/status")
        assert (status["nodes"], status["leader"], status["partial"]) == (3, "n1", False)
        assert "3 nodes, n1 leads" in one.mill("status")
    versions = {(v["version"], v["capacity"]["cpu"], v["epoch"]) for v in three[2].get("/v1/nodes")["nodes"]}
    assert len(versions) == 1
    assert versions.pop()[1:] == (8.0, 1)


def test_the_line_to_join_by_names_the_members_and_the_file(three: Fleet) -> None:
    said = three[1].mill("nodes", "join-command").strip()
    joins = " ".join(f"--join {one.address}" for one in three)
    assert sorted(said.split()) == sorted(f"milld {joins} --secret-file cluster.secret".split())


def test_a_node_is_drained_through_another_one_and_all_see_it(three: Fleet) -> None:
    a, _, c = three
    assert "takes no new task" in a.mill("nodes", "drain", "n3")
    everywhere(three, lambda it: it.nodes()["n3"] == "drained", 5)
    assert c.api("POST", "/v1/tasks/spawn", json={"image": "busybox"}).status_code == 503
    a.mill("nodes", "undrain", "n3")
    everywhere(three, lambda it: it.nodes()["n3"] == "alive", 5)


def test_a_node_that_answers_cannot_be_forgotten(three: Fleet) -> None:
    answer = three[0].api("DELETE", "/v1/nodes/n2")
    assert answer.status_code == 409
    assert "n2 answers" in answer.json()["detail"]


def test_a_wrong_secret_is_one_line_on_either_side_and_moves_nobody(three: Fleet) -> None:
    a = three[0]
    other = make(9, None, a.address, advertise="127.0.0.1")
    milld = a.host.do(
        subprocess.Popen,
        other.command(),
        env=other.env(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert milld.stderr is not None
        line = next(line for line in milld.stderr if "cannot join" in line)
        assert "another secret" in line
        everywhere([a], lambda it: "is not of this cluster" in it.log(), 5)
    finally:
        milld.terminate()
        milld.communicate(timeout=10)
        a.host.do(other.destroy)
    assert set(a.nodes()) == {"n1", "n2", "n3"}
