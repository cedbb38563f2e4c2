"""Values: what a draft laid over another says, what leaves the owner, and that nothing can be changed in place."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.errors import FieldError
from mill.model import Draft, Mount, MountType, Network, Size, SpawnRequest, Spec, Status

words = st.text("abc", min_size=1, max_size=3)
maps = st.none() | st.dictionaries(words, words, max_size=3)
drafts = st.builds(
    Draft,
    image=st.none() | words,
    args=st.none() | st.lists(words, max_size=2).map(tuple),
    env=maps,
    labels=maps,
    cpu=st.none() | st.floats(0.01, 9),
    network=st.none() | st.sampled_from(Network),
    read_only=st.none() | st.booleans(),
    extra=st.dictionaries(words, words, max_size=3),
)


@given(drafts, drafts)
def test_what_the_upper_draft_says_wins_and_what_it_leaves_open_comes_from_below(
    upper: Draft, lower: Draft
) -> None:
    both = upper.over(lower)
    for field in attrs.fields(Draft):
        above, below, got = (getattr(draft, field.name) for draft in (upper, lower, both))
        if field.name in {"env", "labels", "extra"}:
            said = [part for part in (below, above) if part is not None]
            assert got == ({key: value for part in said for key, value in part.items()} if said else None)
        else:
            assert got == (below if above is None else above)


@given(drafts, drafts, drafts)
def test_laying_over_is_associative_and_an_empty_draft_changes_nothing(a: Draft, b: Draft, c: Draft) -> None:
    assert a.over(b).over(c) == a.over(b.over(c))
    assert a.over(Draft()) == a == Draft().over(a)


def test_false_and_empty_are_said_and_win() -> None:
    both = Draft(read_only=False, args=()).over(Draft(read_only=True, args=("x",)))
    assert both.read_only is False
    assert both.args == ()


def test_only_the_names_of_the_environment_leave_the_owner() -> None:
    spec = Spec(image="busybox", name="web", env={"KEY": "secret"})
    assert spec.without_env_values().env == {"KEY": None}
    assert spec.env == {"KEY": "secret"}
    assert "secret" not in repr(spec.without_env_values())


def test_stopped_and_failed_are_terminal_and_nothing_else() -> None:
    assert {status for status in Status if status.terminal} == {Status.STOPPED, Status.FAILED}


def test_values_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Draft().image = "x"  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        SpawnRequest().task = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "blamed"),
    [
        ({"target": "/data"}, "source"),
        ({"target": "/data", "source": "relative"}, "source"),
        ({"target": "/data", "source": "/x", "size": Size(1)}, "size"),
        ({"target": "/data", "type": MountType.TMPFS, "source": "/x"}, "source"),
        ({"target": "data", "source": "/x"}, "target"),
        ({"target": "/", "source": "/x"}, "target"),
        ({"target": "//", "source": "/x"}, "target"),
        ({"target": "/a/../..", "source": "/x"}, "target"),
        ({"target": "/a\0", "source": "/x"}, "target"),
    ],
)
def test_a_mount_that_makes_no_sense_blames_its_field(fields: dict[str, object], blamed: str) -> None:
    with pytest.raises(FieldError) as error:
        Mount(**fields)  # type: ignore[arg-type]
    assert error.value.field == blamed


def test_a_bind_and_a_tmpfs_that_make_sense_are_taken() -> None:
    assert Mount("/data", source="/srv").type is MountType.BIND
    assert Mount("/tmp/x", MountType.TMPFS, size=Size(4096)).size == 4096
