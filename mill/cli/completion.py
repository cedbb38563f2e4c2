"""`mill completion`: the script that makes a shell complete `mill`; and bash's side of it, which click's own gets wrong.

bash splits words at ``:`` and ``=`` before it asks, so that ``busybox:la`` would be completed as ``la``. Ours reads the line
itself and answers with what bash still lacks. zsh and fish get click's scripts.
"""

import os

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

COMPLETE_VAR = "_MILL_COMPLETE"
"""Where the scripts tell `mill` that they are asking; click derives it from the program's name."""

HELP = """Print the script that makes a shell complete mill's commands, options, task ids, templates and images.

    \b
    mill completion bash > /etc/bash_completion.d/mill       # or in ~/.bashrc: eval "$(mill completion bash)"
    mill completion zsh > "${fpath[1]}/_mill"                # or in ~/.zshrc: eval "$(mill completion zsh)"
    mill completion fish > ~/.config/fish/completions/mill.fish

    What is on the node is asked of milld, which has a second to answer; where it is away, nothing is offered.
    """

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' answer kind value
    answer=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1" 2>/dev/null)
    COMPREPLY=()
    for value in $answer; do
        kind=${value%%%%,*}
        value=${value#*,}
        case $kind in
        dir) compopt -o dirnames ;;
        file) compopt -o default ;;
        plain) COMPREPLY+=("$value") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """Of the whole line up to the cursor, whatever bash takes for words."""

    source_template = _BASH

    def source(self) -> str:
        """Without click's look at the bash that is installed: the script may be for another machine."""
        return ShellComplete.source(self)

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        return words[1:], incomplete

    def get_completions(self, args: list[str], incomplete: str) -> list["CompletionItem[str]"]:
        """Less what bash has already: everything up to the last character that it breaks words at."""
        value = incomplete.partition("=")[2] if incomplete.startswith("--") else incomplete
        breaks = os.environ.get("COMP_WORDBREAKS", "")
        had = value[: max((value.rfind(char) + 1 for char in breaks), default=0)]
        items = super().get_completions(args, incomplete)
        return [
            CompletionItem(str(item.value).removeprefix(had), item.type) if item.type == "plain" else item
            for item in items
        ]


def register() -> None:
    """Has click use ours; before it looks whether a shell is asking."""
    add_completion_class(Bash)


@click.command(help=HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    register()
    made = get_completion_class(shell)
    assert made is not None, shell  # noqa: S101 -- click has all three
    click.echo(made(ctx.find_root().command, {}, "mill", COMPLETE_VAR).source())
