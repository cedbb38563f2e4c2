"""Values to JSON and back: nothing is lost, what a newer Mill says is passed on, and a person's mistake is located."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, get_args, get_type_hints

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mill.convert import format_time, from_json, parse_time, to_json
from mill.errors import FieldError
from mill.model import (
    Deadline,
    Draft,
    Duration,
    Ended,
    Keyed,
    Kill,
    LayerProgress,
    LayerState,
    Mount,
    MountType,
    Network,
    Owned,
    Publish,
    PullPolicy,
    PullProgress,
    Reason,
    Record,
    Size,
    SpawnRequest,
    Spec,
    Status,
    Task,
    Time,
    Times,
    Usage,
)

# -- values of every kind -------------------------------------------------------------------------------------------

names = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
keys = st.text("abc.[]_ä", min_size=1, max_size=4)
counts = st.integers(0, 2**40)
times = st.integers(0, 4 * 10**12).map(lambda ms: Time(ms / 1000))
durations = st.floats(0.001, 10**6).map(Duration)
graces = st.floats(0, 80000).map(Duration)
strings = st.lists(texts, max_size=3).map(tuple)
mounts = st.builds(Mount, target=names.map("/{}".format), source=names.map("/{}".format), read_only=st.booleans()) | (
    st.builds(Mount, names.map("/{}".format), st.just(MountType.TMPFS), size=st.none() | counts.map(Size))
)  # fmt: skip
unknown = st.dictionaries(
    keys.map("x-{}".format), st.none() | st.booleans() | counts | texts | st.lists(texts) | st.dictionaries(texts, counts),
    max_size=3,
)  # fmt: skip
specs = st.builds(
    Spec,
    image=texts,
    name=names,
    command=st.none() | strings,
    args=st.none() | strings,
    env=st.dictionaries(keys, st.none() | texts, max_size=3),
    cpu=st.floats(0.01, 100),
    memory=counts.map(Size),
    timeout=durations,
    labels=st.dictionaries(keys, texts, max_size=3),
    network=st.sampled_from(Network),
    pull=st.sampled_from(PullPolicy),
    mounts=st.lists(mounts, max_size=2).map(tuple),
    init=st.booleans(),
    extra=unknown,
)
moments = st.builds(
    Times, times, pulled=st.none() | times, started=st.none() | times, finished=st.none() | times
)
records = st.builds(
    Record,
    id=names,
    spec=specs,
    status=st.sampled_from(Status),
    node=names,
    node_id=names,
    address=texts,
    times=moments,
    version=counts,
    reason=st.none() | st.sampled_from(Reason),
    message=st.none() | texts,
    exit_code=st.none() | st.integers(0, 255),
    pull=st.none() | st.builds(PullProgress, counts, st.none() | counts),
    usage=st.none() | st.builds(Usage, st.floats(0, 64), counts),
    extra=unknown,
)
owned = st.builds(
    Owned,
    env=st.dictionaries(keys, texts, max_size=3),
    pull_deadline=st.none() | st.builds(Deadline, names, st.floats(0, 10**9)),
    deadline=st.none() | st.builds(Deadline, names, st.floats(0, 10**9)),
    kill=st.none() | st.builds(Kill, texts, times, graces, st.none() | st.integers(1, 64)),
    ending=st.none() | st.builds(Ended, st.sampled_from(Status), st.sampled_from(Reason), finished=times),
    extra=unknown,
)
drafts = st.builds(
    Draft,
    image=st.none() | names,
    name=st.none() | names,
    command=st.none() | st.lists(texts.filter(bool), min_size=1, max_size=2).map(tuple),
    env=st.none() | st.dictionaries(keys, texts, max_size=3),
    labels=st.none() | st.dictionaries(keys, texts, max_size=3),
    cpu=st.none() | st.floats(0.01, 100),
    memory=st.none() | st.integers(6 * 1024**2, 2**50).map(Size),
    timeout=st.none() | durations,
    grace=st.none() | graces,
    port=st.none() | st.integers(1, 65535),
    network=st.none() | st.sampled_from(Network),
    mounts=st.none() | st.lists(mounts, max_size=2).map(tuple),
    init=st.none() | st.booleans(),
)


def over_the_wire(value: object) -> Any:
    return json.loads(json.dumps(to_json(value), allow_nan=False))


# -- round trips ----------------------------------------------------------------------------------------------------


@given(records)
def test_a_record_survives_json(record: Record) -> None:
    assert from_json(Record, over_the_wire(record)) == record


@given(owned)
def test_the_owners_part_survives_json(part: Owned) -> None:
    assert from_json(Owned, over_the_wire(part)) == part


@given(drafts)
def test_a_draft_survives_json_strictly_and_leniently(draft: Draft) -> None:
    assert from_json(Draft, over_the_wire(draft), strict=True) == draft
    assert from_json(Draft, over_the_wire(draft)) == draft


@given(records, unknown, unknown)
def test_what_a_newer_mill_says_is_kept_and_passed_on(
    record: Record, in_record: dict[str, object], in_spec: dict[str, object]
) -> None:
    data = over_the_wire(record)
    data.update(in_record)
    data["spec"].update(in_spec)
    kept = from_json(Record, data)
    assert {**record.extra, **in_record} == kept.extra
    assert {**record.spec.extra, **in_spec} == kept.spec.extra
    assert over_the_wire(kept) == data
    assert over_the_wire(attrs.evolve(kept, version=kept.version + 1)) == {
        **data,
        "version": record.version + 1,
    }


def classes_in(kind: Any) -> set[Any]:
    """The classes of all the values that one of *kind* may hold, itself included."""
    if not attrs.has(kind):
        return {found for inner in get_args(kind) for found in classes_in(inner)}
    inner = get_type_hints(kind).values()
    return {kind}.union(*(classes_in(one) for one in inner))


KEPT: dict[Any, Any] = {
    type(one): one
    for one in (
        Record("a", Spec("i", "n"), Status.RUNNING, "n", "n", "a", Times(Time(0.0))),
        Owned(),
        Spec("i", "n"),
        Draft("i", publish=(Publish(80),)),
        Mount("/x", MountType.TMPFS),
        Publish(80),
        Times(Time(0.0)),
        PullProgress(),
        LayerProgress("sha256:0", LayerState.DONE, 1, 1),
        Usage(0.5, 1),
        Ended(Status.STOPPED, Reason.EXIT),
        Deadline("boot", 1.0),
        Kill("admin", Time(0.0), Duration(1.0)),
        Keyed("key", "body"),
    )
}


@pytest.mark.parametrize("kind", sorted((classes_in(Task) - {Task}) | classes_in(Draft), key=str))
def test_every_value_of_a_row_or_a_template_keeps_and_passes_on_what_a_newer_mill_says(kind: Any) -> None:
    newer = {"later": [1, {"deep": None}], "extra": {"x": 1}}
    data = {**over_the_wire(KEPT[kind]), **newer}
    kept = from_json(kind, data)
    assert kept == attrs.evolve(KEPT[kind], extra=newer)
    assert over_the_wire(kept) == data


def test_a_record_of_an_older_mill_gets_todays_defaults() -> None:
    data = over_the_wire(Record("a", Spec("i", "n"), Status.RUNNING, "n", "n", "a", Times(Time(0.0))))
    for key in ("oom_kills", "usage", "reason"):
        del data[key]
    del data["spec"]["init"]
    assert from_json(Record, data).oom_kills == 0


def test_the_json_is_what_the_api_promises() -> None:
    spec = Spec("busybox", "web", env={"A": None}, memory=Size(2 * 1024**3), timeout=Duration(90.0))
    record = Record("a", spec, Status.RUNNING, "n", "n", "a", Times(Time(1767323045.678)))
    data = to_json(record)
    assert data["status"] == "running"
    assert data["times"].pop("created") == "2026-01-02T03:04:05.678Z"
    assert data["times"] == dict.fromkeys(
        "pulled started finished placed pull_began unpack_began fetched queued start_began snapshot_made "
        "container_made launched cleaned".split()
    )
    assert (data["spec"]["memory"], data["spec"]["timeout"], data["spec"]["env"]) == (
        2 * 1024**3,
        90.0,
        {"A": None},
    )
    assert data["reason"] is None
    assert "extra" not in data
    assert "extra" not in data["spec"]


# -- times ----------------------------------------------------------------------------------------------------------


@given(times)
def test_a_time_to_the_millisecond_survives(time: Time) -> None:
    assert parse_time(format_time(time)) == time


@given(st.text() | st.integers() | st.floats() | st.datetimes().map(datetime.isoformat) | st.none())
@example(10**400)
@example("9999-12-31T23:59:59-23:00")
@example("0001-01-01T00:00:00+23:00")
def test_whatever_is_given_is_a_time_that_can_be_written_or_a_value_error(value: object) -> None:
    try:
        time = parse_time(value)
    except ValueError as error:
        assert "RFC 3339" in str(error)  # noqa: PT017 -- it need not be raised
    else:
        assert math.isfinite(time)
        assert parse_time(format_time(time)) == pytest.approx(time, abs=0.001)


def test_a_time_without_a_zone_is_utc() -> None:
    expected = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    for text in ("2026-01-02T03:04:05", "2026-01-02T03:04:05Z", "2026-01-02T04:04:05+01:00"):
        assert parse_time(text) == expected


# -- strictness -----------------------------------------------------------------------------------------------------


def paths(data: object, path: str = "") -> set[str]:
    """The path of everything in *data*, as an error spells it."""
    found = {path}
    if isinstance(data, Mapping):
        for key, value in data.items():
            found |= paths(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            found |= paths(value, f"{path}[{index}]")
    return found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
fields = [field.name for field in attrs.fields(SpawnRequest)]
mount_like = st.lists(
    st.dictionaries(
        st.sampled_from(["target", "type", "source", "read_only", "size", "mode"]), json_values | names
    )
    | json_values,
    max_size=2,
)
requests = st.dictionaries(st.sampled_from(fields), json_values, max_size=4) | st.fixed_dictionaries(
    {}, optional={"mounts": mount_like, "env": st.dictionaries(keys, json_values), "cpuu": json_values}
)


@given(json_values | requests)
@example({"mounts": ["x"]})
@example({"mounts": [{}]})
@example({"env": {"A.": "\0"}})
@example({".x": 1})
@example({"cpu": 10**400})
@example({"env": {"\ud800": "x"}})
def test_a_strict_mistake_is_a_field_error_at_a_path_that_is_there_or_missing(data: object) -> None:
    try:
        request = from_json(SpawnRequest, data, strict=True)
    except FieldError as error:
        there, parent = paths(data), error.field.rpartition(".")[0]
        if error.message == "is missing":
            assert error.field not in there  # noqa: PT017 -- as above
            assert parent in there
        elif "a bind mount needs" in error.message:
            assert parent in there
        else:
            assert error.field in there  # noqa: PT017 -- as above
        for internal in ("object has no attribute", "indices", "unhashable", "can't encode", "NoneType"):
            assert internal not in error.message  # noqa: PT017 -- as above
    else:
        assert isinstance(request, SpawnRequest)


@given(drafts, st.sampled_from(fields), json_values)
def test_one_spoilt_field_of_a_good_draft_is_the_one_that_is_blamed(
    draft: Draft, field: str, bad: object
) -> None:
    data = {**over_the_wire(draft), field: bad}
    try:
        from_json(SpawnRequest, data, strict=True)
    except FieldError as error:
        assert error.field == field or error.field.startswith((f"{field}.", f"{field}["))  # noqa: PT017 -- as above
    else:
        assert over_the_wire(draft).keys() | {field} == data.keys()


@pytest.mark.parametrize(
    ("data", "field", "message"),
    [
        ({"imgae": "x"}, "imgae", "unknown field; known are: args, command"),
        ({"mounts": [{"target": "/x", "source": "/y"}, {"tgt": 1}]}, "mounts[1].target", "is missing"),
        ({"mounts": [{"target": "/x", "mode": 1}]}, "mounts[0].mode", "unknown field; known are: read_only"),
        ({"publish": [{"port": 1, "x": 1}]}, "publish[0].x", "unknown field; known are: host, port"),
        ({"publish": [{"port": 1, "extra": {}}]}, "publish[0].extra", "unknown field; known are: host, port"),
        ({"extra": {}}, "extra", "unknown field; known are: args, command, cpu, env, grace, image"),
        ({"mounts": [{"target": "/x"}]}, "mounts[0].source", "a bind mount needs"),
        ({"mounts": ["/x:/y"]}, "mounts[0]", "must be an object, not a string"),
        ({"mounts": {}}, "mounts", "must be a list, not an object"),
        ({"env": ["A=1"]}, "env", "must be an object, not a list"),
        ({"env": {"A": 1}}, "env.A", "must be a string, not a number"),
        ({"env": {"A": None}}, "env.A", "must be a string, not null"),
        ({"args": "ls"}, "args", "must be a list, not a string"),
        ({"args": ["ls", 1]}, "args[1]", "must be a string, not a number"),
        ({"image": 5}, "image", "must be a string, not a number"),
        ({"port": "80"}, "port", "must be a whole number, not a string"),
        ({"port": True}, "port", "must be a whole number, not a boolean"),
        ({"port": 80.5}, "port", "must be a whole number, not a decimal number"),
        ({"cpu": "1"}, "cpu", "must be a number, not a string"),
        ({"read_only": "yes"}, "read_only", "must be true or false, not a string"),
        ({"read_only": 1}, "read_only", "must be true or false, not a number"),
        ({"memory": "2X"}, "memory", "'2X' is not a size"),
        ({"memory": -1}, "memory", "-1 is negative"),
        ({"timeout": "soon"}, "timeout", "'soon' is not a duration"),
        ({"network": "moon"}, "network", "'moon' is not one of mesh, host, none"),
        ({"name": "A_b"}, "name", "'A_b' is no DNS label"),
        ({"args": ["\ud800"]}, "args[0]", "is not valid UTF-8 text"),
        ({"image": date(2026, 1, 1)}, "image", "must be a string, not a date or time"),
        ([], "", "must be a JSON object, not a list"),
        ("x", "", "must be a JSON object, not a string"),
        (None, "", "must be a JSON object, not null"),
    ],
)
def test_a_mistake_says_where_it_is_and_what_is_meant(data: object, field: str, message: str) -> None:
    with pytest.raises(FieldError) as error:
        from_json(SpawnRequest, data, strict=True)
    assert error.value.field == field
    assert error.value.message.startswith(message)


def test_what_people_write_is_read() -> None:
    data = {"task": "agent", "memory": "2G", "timeout": "1h30m", "cpu": 2, "network": "none", "user": None}
    request = from_json(SpawnRequest, data, strict=True)
    assert request == SpawnRequest(
        task="agent", memory=Size(2 * 1024**3), timeout=Duration(5400.0), cpu=2.0, network=Network.NONE
    )


def test_a_whole_row_survives_json() -> None:
    task = Task(
        Record("a", Spec("i", "n"), Status.RUNNING, "n", "n", "a", Times(Time(1.5))), Owned(env={"A": "1"})
    )
    assert from_json(Task, over_the_wire(task)) == task
