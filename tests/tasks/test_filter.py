"""What a listing wants, judged record by record. That SQL judges alike is shown in tests/test_store.py."""

import pytest

from mill.model import Status
from mill.tasks.filter import Filter
from tests.tasks.scene import make_record, make_spec

RECORD = make_record(
    status=Status.RUNNING, spec=make_spec(labels={"team": "a", "env": "prod"}), template="agent"
)


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(statuses=("stopped", "running")),
        Filter(labels=(("team", "a"),)),
        Filter(labels=(("team", "a"), ("env", "prod"))),
        Filter(node="node-1"),
        Filter(node="n1"),
        Filter(template="agent"),
        Filter(task="web-0000"),
        Filter(("running",), (("env", "prod"),), "node-1", "agent"),
    ],
)
def test_a_filter_accepts_what_matches_in_every_respect(wanted: Filter) -> None:
    assert wanted.accepts(RECORD)


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(statuses=("stopped",)),
        Filter(labels=(("team", "b"),)),
        Filter(labels=(("team", "a"), ("zone", "x"))),
        Filter(labels=(("team", "a"), ("team", "b"))),
        Filter(node="node"),
        Filter(template="agen"),
        Filter(task="web-000"),
        Filter(("running",), (("env", "prod"),), "node-2", "agent"),
    ],
)
def test_one_mismatch_is_enough_to_refuse(wanted: Filter) -> None:
    assert not wanted.accepts(RECORD)


def test_a_label_that_is_missing_is_not_an_empty_one() -> None:
    assert not Filter(labels=(("zone", ""),)).accepts(RECORD)
