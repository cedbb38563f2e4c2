"""The options that say what to run, and the request that they make. Called by `spawn` and `run`."""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from mill.cli import complete
from mill.client import calls, new_key
from mill.errors import FieldError
from mill.model import Network, PullPolicy, SpawnRequest

F = TypeVar("F", bound=Callable[..., Any])

ARGS_META = "mill.args"

OPTIONS = (
    click.option(
        "--image",
        metavar="REF",
        shell_complete=complete.images,
        help="Image to run, such as registry.example.com/myapp:v3.",
    ),
    click.option("--name", help="First part of the id (default: the template's or image's name)."),
    click.option(
        "--command",
        metavar="WORDS",
        help="Instead of the image's ENTRYPOINT, split as a shell would: 'sh -c'.",
    ),
    click.option(
        "-e", "--env", metavar="NAME[=VALUE]", multiple=True, help="NAME alone takes its value from here."
    ),
    click.option(
        "--env-file",
        metavar="FILE",
        multiple=True,
        shell_complete=complete.files,
        help="Lines of NAME=VALUE or NAME; # begins a comment.",
    ),
    click.option("--cpu", type=float, metavar="CORES", help="Reserved, and the limit (default 0.25)."),
    click.option("-m", "--memory", metavar="SIZE", help="Reserved, and the limit: 512M, 2G (default 256M)."),
    click.option("--timeout", metavar="TIME", help="Longest run: 90s, 30m, 2h (default 1h)."),
    click.option("--pull-timeout", metavar="TIME", help="Longest pull of the image (default 10m)."),
    click.option("--port", type=int, help="Where the task listens (default 8080)."),
    click.option("-l", "--label", "labels", metavar="KEY=VALUE", multiple=True, help="To find it by."),
    click.option("-u", "--user", metavar="USER[:GROUP]", help="By name or number (default: the image's)."),
    click.option("-w", "--workdir", metavar="DIR", help="Made if missing (default: the image's)."),
    click.option(
        "--network",
        metavar="MODE",
        shell_complete=complete.one_of(*Network),
        help="mesh, host or none (default mesh).",
    ),
    click.option(
        "-p",
        "--publish",
        metavar="[HOST:]PORT",
        multiple=True,
        help="A port of the node that leads to PORT of the task; without HOST: a free one.",
    ),
    click.option(
        "--stop-signal", metavar="SIGNAL", help="What ends it gently (default: the image's, or TERM)."
    ),
    click.option("--grace", metavar="TIME", help="From that signal to SIGKILL (default 10s)."),
    click.option(
        "--pull",
        metavar="WHEN",
        shell_complete=complete.one_of(*PullPolicy),
        help="missing, always or never (default missing).",
    ),
    click.option(
        "--mount",
        "mounts",
        metavar="SPEC",
        multiple=True,
        help="type=bind,source=/host,target=/dir[,readonly] or type=tmpfs,target=/dir[,size=64M].",
    ),
    click.option("--tmpfs", metavar="DIR[:size=SIZE]", multiple=True, help="Memory as a directory."),
    click.option("--read-only", is_flag=True, help="The root file system cannot be written."),
    click.option(
        "--idempotency-key",
        metavar="KEY",
        help="Said again with the same options within a day, it is the same task (default: a new key).",
    ),
    click.option("--init", is_flag=True, help="A small init as PID 1, which reaps and passes on signals."),
)


class SpecCommand(click.Command):
    """Keeps what follows ``--`` apart: those are the task's own arguments, whatever they look like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            args, ctx.meta[ARGS_META] = args[:at], tuple(args[at + 1 :])
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if error.message.startswith("Got unexpected extra argument"):
                text = f"{error.message.rstrip('.')}: the task's own arguments go after '--'"
                raise click.UsageError(text, ctx) from None
            raise

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- ARGS...]"]


def spec_options(command: F) -> F:
    """TASK and every option of a spec."""
    for option in reversed(OPTIONS):
        command = option(command)
    return click.argument("task", required=False, shell_complete=_template)(command)


def _template(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list["CompletionItem[str]"]:
    """For TASK; what stands behind ``--`` is the task's own."""
    return [] if ARGS_META in ctx.meta else complete.templates(ctx, parameter, incomplete)


def request_from(task: str | None, said: Mapping[str, Any], environ: Mapping[str, str]) -> SpawnRequest:
    """The request out of TASK and options; raises `click.UsageError` that names the option to blame."""
    ctx = click.get_current_context()
    fields: dict[str, Any] = {
        key: value
        for key, value in said.items()
        if key not in _OWN and value is not None and value is not False
    }
    if task is None and "image" not in fields:
        raise click.UsageError("nothing to run: name a template (TASK) or an --image")
    if ARGS_META in ctx.meta:
        fields["args"] = ctx.meta[ARGS_META]
    if said["command"] is not None:
        fields["command"] = _words(said["command"])
    fields["env"] = {**_env_files(said["env_file"], environ), **_env(said["env"], "--env", environ)} or None
    fields["labels"] = dict(_pair(text, "--label") for text in said["labels"]) or None
    fields["publish"] = [_published(text) for text in said["publish"]] or None
    mounts = [_mount(text) for text in said["mounts"]] + [_tmpfs(text) for text in said["tmpfs"]]
    fields["mounts"] = mounts or None
    try:
        return calls.spawn_request(task, fields)
    except FieldError as error:
        raise click.UsageError(f"{_option(error.field)}: {error.message}") from None


def spawn_call(
    task: str | None, said: Mapping[str, Any], environ: Mapping[str, str]
) -> calls.Call[calls.Spawned]:
    """The call that TASK and options ask for; as above."""
    request, key = request_from(task, said, environ), said["idempotency_key"]
    try:
        return calls.spawn(request, new_key() if key is None else key)
    except FieldError as error:
        raise click.UsageError(f"--idempotency-key: {error.message}") from None


_OWN = {"command", "env", "env_file", "idempotency_key", "labels", "mounts", "publish", "tmpfs"}
_NAMES = {"labels": "--label", "mounts": "--mount", "args": "ARGS", "task": "TASK"}


_FIELD = re.compile(r"(\w*)(?:\[\d+\])?\.?(.*)", re.DOTALL)


def _option(field: str) -> str:
    """How the command line calls a field of the API: ``--mount (target)`` for ``mounts[0].target``."""
    match = _FIELD.fullmatch(field)
    first, inner = match.groups() if match else (field, "")
    name = _NAMES.get(first, f"--{first.replace('_', '-')}")
    return f"{name} ({inner})" if inner else name


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise click.UsageError(f"--command: {text!r} cannot be split into words: {error}".lower()) from None


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"{option}: {text!r} is not KEY=VALUE")
    return key, value


def _env(texts: Iterable[str], where: str, environ: Mapping[str, str]) -> dict[str, str]:
    env = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            raise FieldError("", f"{where}: {text!r} is not NAME=VALUE")
        if not equals:
            if name not in environ:
                raise FieldError("", f"{where}: {name} is not set here: write {name}=VALUE, or export it")
            value = environ[name]
        env[name] = value
    return env


def _env_files(files: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    env: dict[str, str] = {}
    for file in files:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise FieldError("", f"--env-file: cannot read {file}: {reason}") from None
        except UnicodeDecodeError:
            raise FieldError("", f"--env-file: {file} is not UTF-8 text") from None
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.strip()
            if line and not line.startswith("#"):
                env |= _env([line], f"--env-file: {file}:{number}", environ)
    return env


_MOUNT_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "destination": "target",
    "dst": "target",
    "size": "size",
    "tmpfs-size": "size",
}
_READ_ONLY = {"readonly": True, "ro": True, "rw": False}


def _mount(text: str) -> dict[str, Any]:
    """``type=bind,source=..,target=..,readonly``, keys as Docker spells them."""
    mount: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if key in _READ_ONLY and (not equals or value in {"true", "1", "false", "0"}):
            mount["read_only"] = _READ_ONLY[key] is (value not in {"false", "0"})
        elif key in _MOUNT_KEYS and equals:
            mount[_MOUNT_KEYS[key]] = value
        else:
            known = "type, source, target, size, readonly"
            raise click.UsageError(f"--mount: {part!r} in {text!r} is not understood; known are {known}")
    if "target" not in mount:
        raise click.UsageError(f"--mount: {text!r} names no target")
    return mount


def _published(text: str) -> dict[str, Any]:
    host, colon, port = text.rpartition(":")
    if not port.isdecimal() or (colon and not host.isdecimal()):
        raise click.UsageError(f"--publish: {text!r} is not PORT or HOST:PORT, two numbers")
    return {"port": int(port), **({"host": int(host)} if colon else {})}


def _tmpfs(text: str) -> dict[str, Any]:
    target, colon, rest = text.partition(":")
    mount: dict[str, Any] = {"type": "tmpfs", "target": target}
    if colon:
        key, _, size = rest.partition("=")
        if key != "size":
            raise click.UsageError(f"--tmpfs: {text!r} is not DIR or DIR:size=SIZE")
        mount["size"] = size
    return mount
