"""How a pull looks at several widths and heights, and how fast it says that it is."""

import io
from collections.abc import Sequence

import attrs
import pytest
from rich.console import Console
from rich.text import Text

from mill.cli.bars import MOST_ROWS, Rates, Room, frame
from mill.model import LayerProgress, LayerState, PullProgress
from mill.units import MIB

IMAGE = "registry.example.com/team/agent:v3"
NOW = 100.0


def layer(number: int, state: str, done: int, total: int) -> LayerProgress:
    return LayerProgress("sha256:" + f"{number:02x}" * 32, LayerState(state), done, total)


def pull(*layers: LayerProgress) -> PullProgress:
    return PullProgress(sum(one.done for one in layers), sum(one.total for one in layers), layers)


EVERY_STATE = pull(
    layer(1, "exists", 3 * MIB, 3 * MIB),
    layer(2, "done", 12 * MIB, 12 * MIB),
    layer(3, "unpacking", 40 * MIB, 40 * MIB),
    layer(4, "downloaded", 8 * MIB, 8 * MIB),
    layer(5, "downloading", 99 * MIB, 450 * MIB),
    layer(6, "waiting", 0, 700 * MIB),
)


def shown(progress: PullProgress, width: int, height: int = 24, *, rates: Rates | None = None) -> list[str]:
    """What rich's console, as wide as the room, makes of the frame."""
    return printed(frame(IMAGE, progress, rates or Rates(), Room(width, height)), width)


def printed(lines: Sequence[Text], width: int) -> list[str]:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, highlight=False)
    for line in lines:
        console.print(line)
    return console.export_text().splitlines()


def moving() -> Rates:
    """The fifth layer got 50 MiB within the last two seconds."""
    rates = Rates()
    before = list(EVERY_STATE.layers)
    before[4] = attrs.evolve(before[4], done=49 * MIB)
    rates.take(pull(*before), NOW - 2)
    rates.take(EVERY_STATE, NOW)
    return rates


def test_eighty_columns_show_everything() -> None:
    assert shown(EVERY_STATE, 79, rates=moving()) == [
        "pulling registry.example.com/team/agent:v3",
        "010101010101  exists       ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━            3M",
        "020202020202  done         ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━           12M",
        "030303030303  unpacking    ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━           40M",
        "040404040404  downloaded   ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━            8M",
        "050505050505  downloading  ━━━━━━────────────────────────   99M of 450M   25M/s",
        "060606060606  waiting      ──────────────────────────────    0B of 700M",
        "total         13%          ━━━━──────────────────────────  162M of 1.2G   25M/s",
    ]


def test_on_forty_columns_bars_and_rates_give_way() -> None:
    assert shown(EVERY_STATE, 39, rates=moving()) == [
        "pulling registry.example.com/team/agen…",
        "010101010101  exists                 3M",
        "020202020202  done                  12M",
        "030303030303  unpacking             40M",
        "040404040404  downloaded             8M",
        "050505050505  downloading   99M of 450M",
        "060606060606  waiting        0B of 700M",
        "total         13%          162M of 1.2G",
    ]


def test_on_fifty_columns_there_is_a_bar_without_a_rate() -> None:
    assert shown(EVERY_STATE, 49, rates=moving())[5] == "050505050505  downloading  ━───────   99M of 450M"


def test_on_two_hundred_columns_bars_do_not_grow_without_end() -> None:
    assert shown(EVERY_STATE, 199, rates=moving())[5] == (
        "050505050505  downloading  ━━━━━━━━────────────────────────────────   99M of 450M   25M/s"
    )


@pytest.mark.parametrize("width", [*range(1, 201)])
def test_no_line_is_wider_than_the_room_nor_wraps(width: int) -> None:
    lines = frame("r" * 300, EVERY_STATE, moving(), Room(width, 24))
    assert max(line.cell_len for line in lines) <= width
    assert len(printed(lines, width)) == len(lines) == 8


def test_before_the_manifest_is_known_there_is_one_line() -> None:
    assert shown(PullProgress(), 79) == ["pulling registry.example.com/team/agent:v3"]


def test_a_node_that_tells_no_layers_gets_the_whole_only() -> None:
    assert shown(PullProgress(2048), 59)[1] == "total         -            ──────────            2K"
    assert shown(PullProgress(512, 2048), 59)[1] == "total         25%          ━━────────    512B of 2K"


def test_while_the_last_layer_is_unpacked_the_whole_says_so() -> None:
    last = pull(layer(1, "done", 5, 5), layer(2, "unpacking", 5, 5))
    assert shown(last, 39)[-1] == "total         unpacking             10B"


def many(*counts: tuple[int, str]) -> PullProgress:
    states = [state for count, state in counts for _ in range(count)]
    return pull(*(layer(number, state, 5, 10) for number, state in enumerate(states)))


def test_of_many_layers_those_that_are_done_are_folded_first() -> None:
    rows = shown(many((9, "done"), (1, "exists"), (3, "downloading"), (5, "waiting")), 39)
    assert rows[1] == "10 layers     done          50B of 100B"
    assert [row.split()[1] for row in rows[2:-1]] == ["downloading"] * 3 + ["waiting"] * 5


def test_then_those_that_wait_and_then_those_that_wait_for_an_earlier_one() -> None:
    rows = shown(many((9, "done"), (3, "downloading"), (15, "waiting")), 39)
    assert [row[:25].rstrip() for row in rows[1:-1]] == [
        "9 layers      done",
        "090909090909  downloading",
        "0a0a0a0a0a0a  downloading",
        "0b0b0b0b0b0b  downloading",
        "15 layers     waiting",
    ]
    rows = shown(many((1, "unpacking"), (30, "downloaded"), (2, "downloading")), 39)
    assert [row[:25].rstrip() for row in rows[2:-2]] == [
        "30 layers     downloaded",
        "1f1f1f1f1f1f  downloading",
    ]


@pytest.mark.parametrize("height", [*range(1, 30)])
def test_no_frame_is_higher_than_the_room(height: int) -> None:
    busy = many((4, "done"), (20, "unpacking"), (4, "waiting"))
    lines = shown(busy, 79, height)
    assert len(lines) <= min(height, MOST_ROWS + 2)
    assert lines[0].startswith("pulling")
    assert height < 2 or lines[-1].startswith("total")


def test_a_rate_is_the_mean_of_the_last_seconds() -> None:
    rates = Rates()
    first = layer(1, "downloading", 0, 1000)
    for second, done in enumerate([0, 0, 0, 0, 100, 200, 300]):
        rates.take(pull(attrs.evolve(first, done=done)), NOW + second)
    assert rates.of(first) == 100.0
    for second in range(7, 12):
        rates.take(pull(attrs.evolve(first, done=300)), NOW + second)
    assert rates.of(first) == 0.0, "it has stalled"


def test_a_rate_does_not_count_the_time_in_which_a_layer_waited() -> None:
    rates = Rates()
    one = layer(1, "downloading", 100, 1000)
    for second in range(2):
        rates.take(pull(attrs.evolve(one, state=LayerState.WAITING, done=0)), NOW + second)
    rates.take(pull(one), NOW + 2)
    assert rates.of(one) == 100.0


def test_what_was_there_already_did_not_come_fast() -> None:
    rates = Rates()
    comes = layer(1, "downloading", 0, 1000)
    rates.take(pull(comes, layer(2, "waiting", 0, 5000)), NOW)
    later = pull(attrs.evolve(comes, done=100), layer(2, "exists", 5000, 5000))
    rates.take(later, NOW + 1)
    assert rates.of_all(later) == 100.0


def test_at_the_first_sight_of_the_layers_there_is_no_rate() -> None:
    rates = Rates()
    begun = pull(layer(1, "downloading", 50, 1000))
    rates.take(PullProgress(), NOW)
    rates.take(begun, NOW + 1)
    assert rates.of_all(begun) is None


def test_the_rate_of_the_whole_goes_on_from_one_layer_to_the_next() -> None:
    rates = Rates()
    for second in range(4):
        rates.take(
            pull(layer(1, "downloading", 100 * second, 300), layer(2, "waiting", 0, 900)), NOW + second
        )
    last = pull(layer(1, "done", 300, 300), layer(2, "downloading", 100, 900))
    rates.take(last, NOW + 4)
    assert rates.of_all(last) == 100.0


def test_what_does_not_come_has_no_rate_and_one_that_begins_anew_no_negative_one() -> None:
    rates = Rates()
    one = layer(1, "downloading", 500, 1000)
    rates.take(pull(one), NOW)
    assert rates.of(one) is None, "one moment makes no rate"
    rates.take(pull(attrs.evolve(one, done=0)), NOW + 1)
    assert rates.of(one) == 0.0
    assert rates.of(attrs.evolve(one, state=LayerState.DOWNLOADED)) is None


def test_a_dumb_terminal_gets_ascii_and_nobody_s_name_drives_it() -> None:
    lines = frame("\x1b[2Jevil", pull(layer(1, "downloading", 5, 10)), Rates(), Room(60, 24, plain=True))
    assert [line.plain for line in lines] == [
        "pulling \\x1b[2Jevil",
        "010101010101  downloading  #####------     5B of 10B",
        "total         50%          #####------     5B of 10B",
    ]
    narrow = frame(IMAGE, EVERY_STATE, moving(), Room(15, 24, plain=True))
    assert all(line.plain.isascii() for line in narrow)
