"""What is shown of a task whose node was lost, and of states that passed unheard."""

from typing import Any

import attrs

from mill.convert import to_json
from mill.model import Reason, Record, Status, Time, Times
from mill.tasks.lost import as_lost
from mill.tasks.steps import passed_over
from tests.tasks.scene import make_spec

AT = Time(500.0)


def ran(status: Status, **said: Any) -> Record:
    times = Times(Time(1.0), placed=Time(1.0), pulled=Time(2.0), started=Time(3.0), finished=Time(4.0))
    record = Record("web-x1", make_spec(), status, "n1", "id", "web-x1.mill:8080", times)
    return attrs.evolve(record, **said)


def test_a_live_task_of_a_lost_node_has_failed_when_the_verdict_came() -> None:
    lost = as_lost(ran(Status.RUNNING), AT)
    assert (lost.status, lost.reason, lost.times.finished) == (Status.FAILED, Reason.NODE_LOST, AT)
    assert as_lost(lost, Time(900.0)) == lost


def test_what_became_of_it_in_truth_stands_beside() -> None:
    lost = as_lost(ran(Status.STOPPED, reason=Reason.EXIT, exit_code=0, message="exited with code 0"), AT)
    assert (lost.status, lost.reason, lost.exit_code) == (Status.FAILED, Reason.NODE_LOST, 0)
    assert lost.message is not None
    assert lost.message.endswith("stopped, exit: exited with code 0")


def test_states_that_nobody_heard_of_are_told_from_the_times() -> None:
    record = to_json(ran(Status.STOPPED, reason=Reason.EXIT, exit_code=0))
    steps = list(passed_over(record, None))
    assert [step["status"] for step in steps] == ["starting", "running"]
    assert [step["times"]["finished"] for step in steps] == [None, None]
    assert steps[1]["times"]["started"] is not None
    assert steps[1]["reason"] is steps[1]["exit_code"] is None
    assert [step["status"] for step in passed_over(record, "starting")] == ["running"]
    assert list(passed_over(record, "stopped")) == list(passed_over(record, "running")) == []
