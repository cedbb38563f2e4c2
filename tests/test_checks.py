"""What each field may hold, and that whatever it may not hold is blamed on that field."""

import signal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.checks import (
    LEAST_CPU,
    LEAST_MEMORY_BYTES,
    MOST_GRACE_S,
    MOST_STRING_BYTES,
    MOST_TIMEOUT_S,
    NAME_LENGTH,
    is_label,
    parse_signal,
    signal_name,
)
from mill.errors import FieldError
from mill.model import Draft

LONG = "x" * (MOST_STRING_BYTES + 1)
LONE_SURROGATE = "\ud800"
NOT_UTF_8 = "\udcff"
"""What Python makes of an argument's byte 0xff."""


def blamed(**fields: object) -> str:
    with pytest.raises(FieldError) as error:
        Draft(**fields)  # type: ignore[arg-type]  # fields as they are named
    assert "\n" not in str(error.value)
    return error.value.field


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("image", ["", "  ", "x" * 513]),
        ("name", ["", "A", "a_b", "-a", "a-", "a.b", "a" * (NAME_LENGTH + 1), "ä", "a\n"]),
        ("command", [(), ("",)]),
        ("cpu", [0.0, -1.0, LEAST_CPU / 2, float("nan"), float("inf")]),
        ("memory", [0, LEAST_MEMORY_BYTES - 1]),
        ("timeout", [0.0, -1.0, MOST_TIMEOUT_S + 1, float("nan")]),
        ("pull_timeout", [0.0, MOST_TIMEOUT_S + 1]),
        ("port", [0, -1, 65536]),
        ("user", ["", " ", "a b", "a:", ":b", "a:b:c", "a\0", "a\n"]),
        ("workdir", ["", "relative", "/a\0b"]),
        ("stop_signal", ["", "NOPE", "0", "65", "-9", "²"]),
        ("grace", [-0.1, MOST_GRACE_S + 1, float("nan")]),
        ("labels", [{"": "x"}, {"a=b": "x"}, {"k" * 254: "x"}, {"k": "v" * 4097}]),
        ("env", [{"": "x"}, {"a=b": "x"}, {"a\0": "x"}]),
    ],
)
def test_a_value_that_cannot_be_is_blamed_on_its_field(field: str, values: list[object]) -> None:
    for value in values:
        assert blamed(**{field: value}) == field, value


@pytest.mark.parametrize("bad", [LONG, "a\0b", LONE_SURROGATE])
def test_a_string_that_no_process_can_be_given_is_blamed_on_its_place(bad: str) -> None:
    assert blamed(args=("fine", bad)) == "args[1]"
    assert blamed(command=("fine", "fine", bad)) == "command[2]"
    assert blamed(env={"A": "fine", "B": bad}) == "env.B"


def test_a_label_must_be_text() -> None:
    assert blamed(labels={"team": LONE_SURROGATE}) == "labels.team"
    assert blamed(labels={"team": NOT_UTF_8}) == "labels.team"
    assert blamed(labels={"team": "a\0"}) == "labels.team"


def test_the_kernels_limit_holds_for_the_name_and_the_value_together() -> None:
    fits = "x" * (MOST_STRING_BYTES - len("KEY="))
    Draft(env={"KEY": fits})
    assert blamed(env={"KEY": fits + "x"}) == "env.KEY"


@pytest.mark.parametrize(
    "fields",
    [
        {"image": "busybox"},
        {"name": "a"},
        {"name": "a" * NAME_LENGTH},
        {"name": "1-a"},
        {"command": ("sh",), "args": ()},
        {"args": ("", "x" * MOST_STRING_BYTES, "ä\n")},
        {"cpu": LEAST_CPU},
        {"cpu": 1e6},
        {"memory": LEAST_MEMORY_BYTES},
        {"timeout": MOST_TIMEOUT_S},
        {"timeout": 0.001},
        {"port": 1},
        {"port": 65535},
        {"user": "nobody"},
        {"user": "1000:1000"},
        {"workdir": "/"},
        {"stop_signal": "USR1"},
        {"stop_signal": "SIGTERM"},
        {"stop_signal": "9"},
        {"grace": 0.0},
        {"grace": MOST_GRACE_S},
        {"labels": {"a.b/c": ""}},
        {"env": {"A": "", "a-b": "x=y", "ä": "\n"}},
    ],
)
def test_a_value_at_its_limit_is_taken(fields: dict[str, object]) -> None:
    draft = Draft(**fields)  # type: ignore[arg-type]  # as above
    said = {k: v for k, v in attrs.asdict(draft, recurse=False).items() if v is not None}
    assert said == {**fields, "extra": {}}


@given(st.text(max_size=70), st.integers(1, 63))
def test_a_label_is_lower_case_letters_digits_and_inner_hyphens(text: str, most: int) -> None:
    expected = (
        0 < len(text) <= most
        and all(c in "abcdefghijklmnopqrstuvwxyz0123456789-" for c in text)
        and text[0] != "-"
        and text[-1] != "-"
    )
    assert is_label(text, most) == expected


@given(st.text() | st.integers())
def test_any_signal_is_a_number_of_linux_or_a_value_error(value: str | int) -> None:
    try:
        number = parse_signal(value)
    except ValueError as error:
        assert "is not a signal" in str(error)  # noqa: PT017 -- it need not be raised
    else:
        assert 1 <= number <= 64


@pytest.mark.parametrize("number", sorted(signal.Signals))
def test_every_signal_is_known_by_name_by_short_name_and_by_number(number: signal.Signals) -> None:
    name = signal_name(number)
    for spelled in (name, name.lower(), name.removeprefix("SIG"), str(int(number)), int(number), f" {name} "):
        assert parse_signal(spelled) == number


def test_a_real_time_signal_has_no_name_of_its_own() -> None:
    assert signal_name(40) == "signal 40"
    assert parse_signal(40) == 40


@pytest.mark.parametrize(
    ("said", "number"),
    [("SIGRTMIN+3", 37), ("rtmin+0", 34), ("RTMIN+30", 64), ("SIGRTMAX-1", 63), ("RTMAX-30", 34)],
)
def test_a_real_time_signal_is_counted_from_either_end(said: str, number: int) -> None:
    assert parse_signal(said) == number


@pytest.mark.parametrize(
    "said", ["SIGRTMIN+31", "RTMAX-31", "RTMIN-1", "RTMAX+1", "RTMIN+", "RTMIN+3x", "RTMIN+³"]
)
def test_a_real_time_signal_beyond_the_other_end_is_none(said: str) -> None:
    with pytest.raises(ValueError, match="is not a signal"):
        parse_signal(said)
