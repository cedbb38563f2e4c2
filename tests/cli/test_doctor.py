"""How findings are shown: wrapped for a terminal, whole for grep, and never as a terminal's commands. `scenarios` runs the command."""

from typing import Any

import click

from mill.cli.doctor import lines

LONG = "a sentence that is a good deal longer than the terminal is wide, so that it goes on below itself"
COMMAND = "ctr -a /run/containerd/containerd.sock -n mill tasks rm -f a-task-with-quite-a-name"


def report(
    *findings: tuple[str, str, str, list[str]], problems: int = 0, warnings: int = 0
) -> dict[str, Any]:
    keys = ("check", "level", "found", "advice")
    return {
        "problems": problems,
        "warnings": warnings,
        "findings": [dict(zip(keys, one, strict=True)) for one in findings],
    }


def shown(said: dict[str, Any], width: int | None) -> list[str]:
    return [click.unstyle(line) for line in lines(said, width)]


def test_long_lines_go_on_below_themselves() -> None:
    said = report(("disk", "ok", "fine", []), ("clock", "warning", LONG, [LONG]), warnings=1)
    text = shown(said, 60)
    assert text[0] == "ok       disk   fine"
    assert all(len(line) <= 60 for line in text)
    assert text[1].startswith("warning  clock  a sentence")
    assert text[2].startswith(" " * 16)
    assert sum(line.startswith(" " * 16 + "-> ") for line in text) == 1
    assert text[-2:] == ["", "0 problems, 1 warning: tasks can run here"]


def test_off_a_terminal_each_is_one_line() -> None:
    said = report(("clock", "problem", LONG, [LONG]), problems=1)
    assert shown(said, None) == [
        f"problem  clock  {LONG}",
        f"{' ' * 16}-> {LONG}",
        "",
        "1 problem, 0 warnings: tasks cannot run here as it is",
    ]


def test_commands_are_left_whole_to_be_copied() -> None:
    said = report(("leftovers", "warning", "some", ["start it again, or:", COMMAND]), warnings=1)
    assert shown(said, 60)[2] == f"{' ' * 20}$  {COMMAND}"


def test_what_a_process_calls_itself_does_not_reach_the_terminal() -> None:
    said = report(("ports", "problem", "pid 7 (\x1b[2J)", ["stop\x07 it"]), problems=1)
    text = "\n".join(shown(said, None))
    assert "\x1b" not in text
    assert "\x07" not in text
