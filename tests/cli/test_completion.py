"""Completion: a real bash with TABs pressed on a terminal; zsh's and fish's questions as their scripts ask them."""

import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from mill.model import Draft, Image, Size, Template
from tests.cli.conftest import Mill
from tests.client.fake_api import FakeApi

WITHIN_S = 20.0
"""For one completion, which takes half a second on an idle machine."""
SHOW_LINE = "\x0f"
"""Ctrl-O, bound to print what stands on the line."""
RC = """\
PS1='> '
bind 'set enable-bracketed-paste off' 2>/dev/null
bind 'set bell-style none' 2>/dev/null
bind 'set completion-query-items 0' 2>/dev/null
bind 'set page-completions off' 2>/dev/null
bind -x '"\\C-o": printf "\\n<%s>\\n" "$READLINE_LINE"'
eval "$(mill completion bash)"
"""


@attrs.define
class Bash:
    """An interactive bash on a terminal of its own, that has loaded our script."""

    terminal: int

    def completes(self, line: str, expected: str) -> None:
        """Tried again for a while: a completion has but a second for milld's answer, which a loaded machine may not keep."""
        until = time.monotonic() + WITHIN_S
        while (shown := self.completed(line)) != expected and time.monotonic() < until:
            pass
        assert shown == expected

    def completed(self, line: str) -> str:
        """What stands on the line after *line* and TAB."""
        os.write(self.terminal, f"\x15{line}\t{SHOW_LINE}".encode())  # Ctrl-U: nothing of the last one
        shown: list[str] = re.findall(r"<(.*)>", self._until(r"\n<.*>\r?\n"))
        return shown[-1]

    def lists(self, line: str, expected: set[str]) -> None:
        """What is offered where several things fit: another TAB, after one that changed nothing, lists them."""
        until = time.monotonic() + WITHIN_S
        while not expected <= (shown := self._listed(line)) and time.monotonic() < until:
            pass  # as in `completes`
        assert expected <= shown

    def _listed(self, line: str) -> set[str]:
        os.write(self.terminal, f"\x15{line}\t\t\t{SHOW_LINE}".encode())
        return set(self._until(r"\n<.*>\r?\n").split())

    def _until(self, pattern: str) -> str:
        text, until = "", time.monotonic() + WITHIN_S
        while not re.search(pattern, text):
            left = until - time.monotonic()
            assert left > 0, text
            if select.select([self.terminal], [], [], left)[0]:
                text += os.read(self.terminal, 65536).decode(errors="replace")
        return text


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH on which `mill` is ours."""
    file = tmp_path / "bin" / "mill"
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\nexec {sys.executable} -m mill.cli.main "$@"\n')
    file.chmod(0o755)
    return f"{file.parent}:{os.environ['PATH']}"


@pytest.fixture
def bash(environ: dict[str, str], path: str, tmp_path: Path) -> Iterator[Bash]:
    (tmp_path / "bashrc").write_text(RC)
    mine, its = pty.openpty()
    process = subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", str(tmp_path / "bashrc"), "-i"],
        stdin=its, stdout=its, stderr=its, cwd=tmp_path, start_new_session=True,
        env={**environ, "PATH": path, "TERM": "dumb", "COLUMNS": "200", "INPUTRC": "/dev/null"},
    )  # fmt: skip
    os.close(its)
    try:
        yield Bash(mine)
    finally:
        process.kill()
        process.wait()
        os.close(mine)


@pytest.fixture
def stocked(api: FakeApi) -> FakeApi:
    """A node with tasks, templates and images."""

    def stock() -> None:
        for name in ("worker", "worker", "coop"):
            api.add("hold", name=name)
        api.add("exit 0", name="ended")
        for name in ("coop-agent", "nightly"):
            api.templates[name] = Template(name, Draft(image="busybox"))
        for ref in ("docker.io/library/busybox:latest", "registry.example.com:5000/app:v3"):
            api.images.append(Image(ref=ref, digest="sha256:" + "0" * 64, size=Size(1)))

    api.do(stock)
    return api


def test_bash_completes_what_is_on_the_node(bash: Bash, stocked: FakeApi) -> None:
    assert len(stocked.tasks) == 4
    for line, completed in {
        "mill kill co": "mill kill coop-0003 ",
        "mill logs -f en": "mill logs -f ended-0004 ",
        "mill kill wor": "mill kill worker-000",
        "mill kill en": "mill kill en",  # it has ended
        "mill spawn ni": "mill spawn nightly ",
        "mill templates show coop": "mill templates show coop-agent ",
        "mill ps --node nod": "mill ps --node node-3 ",
        "mill run --image bus": "mill run --image busybox:latest ",
        "mill run --image busybox:la": "mill run --image busybox:latest ",
        "mill run --image=busybox:la": "mill run --image=busybox:latest ",
        "mill run --image registry.example.com:50": "mill run --image registry.example.com:5000/app:v3 ",
        "mill run --image busybox -- ni": "mill run --image busybox -- ni",  # the task's own
    }.items():
        bash.completes(line, completed)
    bash.lists("mill kill wor", {"worker-0001", "worker-0002"})


def test_bash_completes_commands_options_and_choices(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / "archive.tar").touch()
    for line, completed in {
        "mill insp": "mill inspect ",
        "mill templates sh": "mill templates show ",
        "mill spawn --read": "mill spawn --read-only ",
        "mill spawn --network h": "mill spawn --network host ",
        "mill run --pull=alw": "mill run --pull=always ",
        "mill ps -s fai": "mill ps -s failed ",
        "mill kill -s us": "mill kill -s USR",
        "mill completion fi": "mill completion fish ",
        "mill images load arch": "mill images load archive.tar ",
        "mill nonsense x": "mill nonsense x",
    }.items():
        bash.completes(line, completed)
    bash.lists("mill ", {"spawn", "doctor", "systemd-unit"})


def test_bash_offers_nothing_and_says_nothing_where_milld_is_away(bash: Bash, api: FakeApi) -> None:
    api.do(api.stop_listening)
    assert bash.completed("mill kill wor") == "mill kill wor"
    assert bash.completed("mill insp") == "mill inspect "


def ask(environ: dict[str, str], kind: str, words: str, at: str) -> list[str]:
    """As the scripts do for *kind*; nothing may come on stderr, which is the user's terminal."""
    env = {**environ, "_MILL_COMPLETE": f"{kind}_complete", "COMP_WORDS": words, "COMP_CWORD": at}
    command = [sys.executable, "-m", "mill.cli.main"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=WITHIN_S)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_zsh_and_fish_are_told_more(environ: dict[str, str], stocked: FakeApi) -> None:
    assert stocked.templates
    for kind, words, at, answer in (
        ("zsh", "mill logs en", "2", ["plain", "ended-0004", "stopped"]),
        ("fish", "mill logs en", "en", ["plain,ended-0004", "stopped"]),
        ("zsh", "mill run --image busybox:", "3", ["plain", "busybox:latest", "_"]),
    ):
        until = time.monotonic() + WITHIN_S
        while (said := ask(environ, kind, words, at)) != answer and time.monotonic() < until:
            pass  # as in `Bash.completes`
        assert said == answer
    assert ask(environ, "zsh", "mill nonsense x", "2") == []


def test_a_milld_that_does_not_answer_has_a_second(environ: dict[str, str], stocked: FakeApi) -> None:
    """Its port is open, and nobody reads from it."""
    stocked.do(stocked.stop_listening)

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        there = {**environ, "MILL_ADDRESS": f"http://127.0.0.1:{deaf.getsockname()[1]}"}
        began = time.monotonic()
        assert ask(there, "fish", "mill kill w", "w") == []
        assert time.monotonic() - began < WITHIN_S / 2
    assert ask({**environ, "MILL_ADDRESS": "no address"}, "fish", "mill kill w", "w") == []
    assert ask({**environ, "MILL_TOKEN": "wrong"}, "fish", "mill kill w", "w") == []


@pytest.mark.parametrize(("shell", "told"), [
    ("bash", "complete -o nosort -F _mill_completion mill"),
    ("zsh", "#compdef mill"),
    ("fish", "complete --no-files --command mill"),
])  # fmt: skip
def test_each_shell_s_script(mill: Mill, shell: str, told: str) -> None:
    script = mill("completion", shell).stdout
    assert told in script
    assert f"_MILL_COMPLETE={shell}_complete" in script


def test_another_shell_is_bad_input(mill: Mill) -> None:
    assert "'tcsh'" in mill("completion", "tcsh", code=2).stderr
