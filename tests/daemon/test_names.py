"""Names as the table has them, for every network and at every status."""

from typing import Any

import attrs
import pytest

from mill.cluster.values import Address
from mill.daemon.names import TaskNames
from mill.daemon.others import Others
from mill.dns.names import Known, Name
from mill.model import Network, Record, Size, Spec, Status, Task, Time, Times
from mill.tasks.table import Table
from tests.tasks.fakes import FakeRecords

NODE = "192.0.2.1"


def add(table: Table, id_: str, *, ip: str | None = None, **spec: Any) -> None:
    said = Spec(image="busybox", name="web", memory=Size(1), **spec)
    times = Times(Time(0.0))
    table.add(Task(Record(id_, said, Status.STARTING, "n", "id", f"{id_}.mill:1", times, ip=ip)))


@pytest.fixture
def table() -> Table:
    return Table(FakeRecords([]))


def test_every_network_has_its_addresses(table: Table) -> None:
    add(table, "on-host", network=Network.HOST, port=1)
    add(table, "alone", network=Network.NONE, port=2)
    names = TaskNames(table, NODE)
    assert names.lookup("on-host") == Name((NODE,), 1)
    assert names.lookup("alone") == Name((), 2)
    assert names.lookup("nobody") is None


def test_an_address_of_its_own_leads_back_to_its_task_and_the_nodes_to_none(table: Table) -> None:
    add(table, "on-host", network=Network.HOST, ip=NODE)
    add(table, "own", network=Network.NONE, ip="10.99.0.2")
    names = TaskNames(table, NODE)
    assert names.lookup("own") == Name(("10.99.0.2",), 8080)
    assert [names.reverse(address) for address in (NODE, "10.99.0.2", "10.99.0.3")] == [None, "own", None]


def test_a_task_that_has_ended_has_no_name_even_while_it_is_cleaned_up(table: Table) -> None:
    add(table, "own", network=Network.NONE, ip="10.99.0.2")
    live = table.get("own")
    assert live is not None
    live.task = attrs.evolve(live.task, record=attrs.evolve(live.task.record, status=Status.STOPPED))
    names = TaskNames(table, NODE)
    assert (names.lookup("own"), names.reverse("10.99.0.2")) == (None, None)


OTHER = "aa" * 16


def test_other_nodes_tasks_have_names_until_their_end_is_heard_of(table: Table) -> None:
    others = Others(lambda _: None, lambda _: Address("192.0.2.9", 4401))
    names = TaskNames(table, NODE, others=others)
    for id_, network, ip in (("on-host", Network.HOST, None), ("own", Network.MESH, "10.99.4.2")):
        spec = Spec(image="busybox", name="web", memory=Size(1), network=network, port=3)
        others.learn(
            id_, Record(id_, spec, Status.RUNNING, "n2", OTHER, f"{id_}.mill:3", Times(Time(0.0)), ip=ip)
        )
    assert names.lookup("on-host") == Name(("192.0.2.9",), 3)
    assert names.lookup("own") == Name(("10.99.4.2",), 3)
    assert [names.reverse(address) for address in ("192.0.2.9", "10.99.4.2")] == [None, "own"]
    others.learn("own", None)
    assert (names.lookup("own"), names.reverse("10.99.4.2")) == (None, None)


def test_what_only_others_can_tell_is_neither_claimed_nor_denied(table: Table) -> None:
    add(table, "own-0000", network=Network.NONE, ip="10.99.0.2")
    others = Others(lambda _: None, lambda _: None)
    names = TaskNames(table, NODE, others=others, ended=lambda task_id: task_id == "over-0000")
    assert names.lookup("own-0000") == Name(("10.99.0.2",), 8080)
    assert names.lookup("new-0000") is names.lookup("a-b-c0d1e") is Known.UNSURE
    assert names.lookup("over-0000") is None
    for no_id in ("web", "web-abc", "-abcd", "web-ab\xe9d", "Web-abcd", "wpad", "", "w" * 59 + "-abcd"):
        assert names.lookup(no_id) is None
    assert names.reverse("10.99.4.2") is None
    assert attrs.evolve(names, partial=lambda: True).reverse("10.99.4.2") is Known.UNSURE


def test_the_address_of_a_task_that_does_not_run_yet_is_its_owners_to_tell(table: Table) -> None:
    others = Others(lambda _: None, lambda _: None)
    names = TaskNames(table, NODE, others=others)
    for network, found in ((Network.MESH, Known.UNSURE), (Network.NONE, Name((), 8080))):
        spec = Spec(image="busybox", name="web", memory=Size(1), network=network)
        record = Record(
            "web-0000", spec, Status.STARTING, "n2", OTHER, "web-0000.mill:8080", Times(Time(0.0))
        )
        others.learn("web-0000", record)
        assert names.lookup("web-0000") == found
