"""Sizes, durations and resolvers: what people write is read, what is shown can be read again, and all else is a ValueError."""

import math
import re
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mill.units import (
    GIB,
    KIB,
    MIB,
    MOST_SIZE_BYTES,
    format_duration,
    format_size,
    parse_duration,
    parse_resolvers,
    parse_size,
)

anything = st.one_of(
    st.text(),
    st.from_regex(r"[0-9.]{0,4}[a-zA-Z\u212a\u0130\u0131 ]{0,4}", fullmatch=True),
    st.from_regex(r"(\d{0,400}[dhms]{1,2}){0,5}", fullmatch=True),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.integers()),
    st.binary(),
)
sizes = st.integers(0, MOST_SIZE_BYTES)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2G", 2 * GIB),
        ("2g", 2 * GIB),
        ("2Gi", None),
        ("2GiB", 2 * GIB),
        ("2GB", 2 * GIB),
        ("512M", 512 * MIB),
        ("1.5K", 1536),
        (" 1 T ", 1024 * GIB),
        ("0", 0),
        ("4096", 4096),
        ("9007199254740993", 9007199254740993),
        ("", None),
        ("G", None),
        ("-1", None),
        ("1e3", None),
        ("1.M", None),
        ("1P", None),
        ("2 G B", None),
        ("٣K", None),
    ],
)
def test_a_size_is_read_as_docker_reads_it(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(ValueError, match="write bytes or a number with K, M, G or T"):
            parse_size(text)
    else:
        assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("30m", 1800.0),
        ("1h30m", 5400.0),
        ("2d", 172800.0),
        ("2d3h4m5s", 183845.0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("1m250ms", 60.25),
        ("90", 90.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("", None),
        (" ", None),
        ("5x", None),
        ("1.5h", None),
        ("30m1h", None),
        ("-5s", None),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
    ],
)
def test_a_duration_is_read_as_people_write_it(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(ValueError, match="write seconds or a duration such as"):
            parse_duration(text)
    else:
        assert parse_duration(text) == pytest.approx(seconds)


@given(anything)
@example("2\u212a")
@example("9" * 400)
@example("9" * 400 + "G")
@example("9" * 5000)
@example(10**400)
@example(-(10**400))
@example(1e300)
def test_whatever_is_given_is_a_value_or_a_value_error(value: object) -> None:
    kinds: list[tuple[Callable[[object], float], type]] = [(parse_size, int), (parse_duration, float)]
    for parse, kind in kinds:
        try:
            parsed = parse(value)
        except ValueError:
            continue
        assert type(parsed) is kind
        assert parsed >= 0
        assert math.isfinite(parsed)
        assert kind is float or parsed <= MOST_SIZE_BYTES


@given(sizes)
def test_a_number_is_itself(size: int) -> None:
    assert parse_size(size) == parse_size(str(size)) == size


@given(st.floats(0, 1e15))
def test_a_number_of_seconds_is_itself(seconds: float) -> None:
    assert parse_duration(seconds) == parse_duration(str(seconds)) == seconds


@given(st.integers(0, 2**20), st.sampled_from([("K", KIB), ("M", MIB), ("G", GIB), ("T", 1024 * GIB)]))
def test_every_spelling_of_a_unit_means_the_same(number: int, unit: tuple[str, int]) -> None:
    letter, factor = unit
    for spelled in (letter, letter.lower(), f"{letter}B", f"{letter}iB", f" {letter}ib"):
        assert parse_size(f"{number}{spelled}") == number * factor


@given(sizes)
@example(1023488)
@example(999 * KIB + 600)
@example(int(9.96 * KIB))
def test_a_size_that_is_shown_is_short_and_reads_as_nearly_itself(size: int) -> None:
    shown = format_size(size)
    if size < 999.5 * 1024 * GIB:
        assert re.fullmatch(r"\d{1,3}[BKMG]|\d\.\d[MKG]|\d{1,3}\.\dT", shown)
        assert parse_size(shown) == pytest.approx(size, rel=0.051)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0B"),
        (512, "512B"),
        (1000, "1.0K"),
        (KIB, "1K"),
        (int(1.2 * GIB), "1.2G"),
        (80 * MIB, "80M"),
        (1023 * MIB, "1.0G"),
        (1023488, "1.0M"),
        (2 * 1024 * GIB, "2.0T"),
    ],
)
def test_sizes_are_shown_as_in_the_design(size: int, shown: str) -> None:
    assert format_size(size) == shown


@given(st.integers(0, 10**9))
def test_a_duration_that_is_shown_never_claims_more_and_loses_less_than_its_last_unit(seconds: int) -> None:
    shown = format_duration(seconds)
    last_s = 3600 if "d" in shown else 60 if shown[-1] in "hm" else 1
    read = parse_duration(shown)
    assert read <= seconds < read + last_s
    assert format_duration(read) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (-3, "0s"), (45.9, "45s"), (720, "12m"), (5400, "1h30m"), (3600, "1h"), (183600, "2d3h")],
)
def test_durations_are_shown_as_in_the_design(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown


@pytest.mark.parametrize("seconds", [1.0, 90.0, 5430.0, 86400.0, 2.5])
def test_what_is_parsed_from_its_parts_is_their_sum(seconds: float) -> None:
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    assert parse_duration(f"{days:.0f}d{hours:.0f}h{rest:g}s") == seconds


@pytest.mark.parametrize(("said", "resolvers"), [
    ("192.0.2.53", [("192.0.2.53", 53)]),
    ("192.0.2.53:5353, 2001:db8::53", [("192.0.2.53", 5353), ("2001:db8::53", 53)]),
    (["[2001:db8::53]:54", "[::1]"], [("2001:db8::53", 54), ("::1", 53)]),
])  # fmt: skip
def test_resolvers_are_addresses_with_or_without_a_port(
    said: str | list[str], resolvers: list[tuple[str, int]]
) -> None:
    assert parse_resolvers(said) == tuple(resolvers)


@pytest.mark.parametrize(
    "said",
    ["", ",", "192.0.2.53,", "dns.example", "192.0.2.53:0", "192.0.2.53:65536", "192.0.2.53:x", "0.0.0.0", "[::]:53", ":53",
     "[192.0.2.53", "1:2:3", [], [5], None, 53],
)  # fmt: skip
def test_what_is_no_resolver_says_what_to_write(said: object) -> None:
    with pytest.raises(ValueError, match="write IP"):
        parse_resolvers(said)


@given(anything)
def test_anything_else_as_resolvers_is_a_value_error(said: object) -> None:
    with suppress(ValueError):
        assert all(0 < port < 65536 for _, port in parse_resolvers(said))
