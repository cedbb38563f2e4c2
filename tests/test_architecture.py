"""The rules of the design's section 8 and of the style guide that a program can check, on every file of `mill/`.

Layers by imports, what pure modules may not hold, sizes of files and functions, names, docstrings, and where an
`except Exception` may stand. Each rule is a function of one parsed module that yields what is wrong, and each is shown to
find a planted offence: a rule that cannot fail protects nothing.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parent.parent

LEAVES = {"errors", "checks", "model", "units", "convert", "config"}
PURE = {
    "tasks.states", "tasks.placement",
    "containerd.spec", "containerd.reference", "containerd.oci",
    "logs.index", "logs.frames",
    "dns.answer",
    "cluster.swim", "cluster.wire",
}  # fmt: skip
"""Those that the design names; a module whose docstring calls itself "Pure" joins them, with the rights and the duties."""
BETWEEN = {"containerd.faults", "tasks.ports"}
"""Errors of one package that its callers must catch, protocols that its suppliers must fit: no behaviour, like a leaf."""
CLIENT_SIDE = {"client", "cli"}
IMPURE_IMPORTS = {
    "trio",
    "socket",
    "time",
    "random",
    "logging",
    "structlog",
    "asyncio",
    "threading",
    "subprocess",
}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
FILE_LINES = 400
"""Past it the module's docstring gives the reason, in the words below."""
FILE_REASON = "Over 400 lines because"
FILE_LINES_END = 600
FUNCTION_LINES = 40
SUPERVISORS = {
    "convert": 1,  # a structure hook may raise anything; it gets the path of the field and becomes a FieldError
    "api.server": 1,  # the top of one connection: what goes wrong with it must not end the others
    "dns.responder": 1,  # the top of one query: no bytes from outside may end milld
    "dns.forward": 1,  # the top of one question to upstream, as above
    "cli.main": 1,  # the command's top: whatever it is becomes one line and an exit code
    "daemon.doctor.examine": 1,  # the top of one check: a host is odd in more ways than we know
    "daemon.main": 1,  # the daemon's top: the log has the details, tasks run on
    "containerd.flights": 1,  # the top of one pull: a registry that finds a hole in Mill ends its pull, not milld
    "tasks.supervision": 1,  # the top of one task's life: a bug of ours fails that task, not milld
}
"""Modules with a top supervisor, and how many `except Exception` each may hold."""


@attrs.frozen
class Module:
    """One parsed file: `name` without the leading ``mill.`` (``tasks.states``)."""

    name: str
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package under mill/ it belongs to; of a module right below mill/, its own name."""
        return self.name.split(".", 1)[0]

    def imports(self) -> Iterator[str]:
        """Every module imported, anywhere in the file. ``from a import b`` is a.b where that is a module of ours, else a."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}: relative imports hide the layer"
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if is_ours(inner.removeprefix("mill.")) else node.module or ""

    def own_imports(self) -> set[str]:
        """Modules of Mill that are imported, without the leading ``mill.``."""
        return {name.removeprefix("mill.") for name in self.imports() if name.startswith("mill.")}


def is_ours(name: str) -> bool:
    return free_to_import(name) or any(module.name == name for module in MODULES)


def parse(name: str, text: str) -> Module:
    return Module(name, text, ast.parse(text))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "mill").with_suffix("").parts).removesuffix(".__init__")


MODULES: list[Module] = []
MODULES += [
    parse(name_of(path), path.read_text())
    for path in sorted((ROOT / "mill").rglob("*.py"))
    if not path.name.endswith("_pb2.py")
]
PURE |= {
    module.name for module in MODULES if re.search(r"\bPure\b[.;:]", ast.get_docstring(module.tree) or "")
}


# -- layers ---------------------------------------------------------------------------------------------------------


def free_to_import(name: str) -> bool:
    """What every shell may use of another package: leaves, pure modules, error types."""
    return name in LEAVES | PURE | BETWEEN


def layers(module: Module) -> Iterator[str]:
    for other in sorted(module.own_imports()):
        package = other.split(".", 1)[0]
        if module.name in LEAVES:
            fine = other in LEAVES
        elif module.name in PURE:
            fine = other in LEAVES | PURE
        elif module.package == "daemon":
            fine = package not in CLIENT_SIDE
        elif module.package == "cli":
            fine = other in LEAVES or package in CLIENT_SIDE
        elif module.package == "client":
            fine = other in LEAVES or package == "client"
        else:
            fine = package == module.package or (free_to_import(other) and package not in CLIENT_SIDE)
        if not fine:
            yield f"{module.name} must not import mill.{other}"


def purity(module: Module) -> Iterator[str]:
    if module.name not in PURE | LEAVES:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.AsyncFunctionDef):
            yield f"{module.name}:{node.lineno} is pure and must not hold async def {node.name}"
    for name in sorted({name.split(".", 1)[0] for name in module.imports()} & IMPURE_IMPORTS):
        yield f"{module.name} is pure and must not import {name}"


# -- sizes and names ------------------------------------------------------------------------------------------------


def file_size(module: Module) -> Iterator[str]:
    lines = len(module.text.splitlines())
    if lines > FILE_LINES_END:
        yield f"{module.name} has {lines} lines: split it"
    elif lines > FILE_LINES and FILE_REASON not in (ast.get_docstring(module.tree) or ""):
        yield f"{module.name} has {lines} lines: split it by noun, or say in the docstring {FILE_REASON!r} ..."


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From the first statement that is no docstring to the last line."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and len(body) > 1:
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def function_size(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > FUNCTION_LINES:
            yield f"{module.name}:{node.lineno} {node.name} has {body_lines(node)} lines, {FUNCTION_LINES} are allowed"


def names(module: Module) -> Iterator[str]:
    for part in set(module.name.split(".")) & BANNED_NAMES:
        yield f"{module.name}: {part} says nothing about what is inside"


def docstrings(module: Module) -> Iterator[str]:
    if module.text.strip() and not ast.get_docstring(module.tree):
        yield f"{module.name} has no docstring that says what it is and who calls it"


# -- habits ---------------------------------------------------------------------------------------------------------


def broad_excepts(module: Module) -> Iterator[str]:
    found = [
        node.lineno
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} & {"Exception", "BaseException"})
        and not any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
    ]  # fmt: skip
    if len(found) > SUPERVISORS.get(module.name, 0):
        yield f"{module.name}:{','.join(map(str, found))} catches everything; only a component's top supervisor may (SUPERVISORS)"


def sleeps(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "time.sleep":
            yield f"{module.name}:{node.lineno} blocks the event loop with time.sleep"
        if (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and any(a.name == "sleep" for a in node.names)
        ):
            yield f"{module.name}:{node.lineno} imports time.sleep"


RULES: list[Callable[[Module], Iterator[str]]] = [
    layers, purity, file_size, function_size, names, docstrings, broad_excepts, sleeps,
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps(rule: Callable[[Module], Iterator[str]]) -> None:
    assert [line for module in MODULES for line in rule(module)] == []


def test_every_test_file_and_example_has_a_docstring_and_no_excess_of_lines() -> None:
    paths = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    modules = [
        parse(".".join(path.relative_to(ROOT).with_suffix("").parts), path.read_text()) for path in paths
    ]
    assert [
        line for module in modules for rule in (docstrings, file_size, names) for line in rule(module)
    ] == []


def test_the_lists_of_pure_modules_name_modules_that_exist() -> None:
    """A renamed module must not escape its rules."""
    there = {module.name for module in MODULES}
    assert sorted((LEAVES | BETWEEN | set(SUPERVISORS)) - there) == []
    assert sorted(PURE - there) == []


# -- every rule can fail --------------------------------------------------------------------------------------------

LONG_FUNCTION = '"""Doc."""\ndef f():\n    """Doc."""\n' + "    x = 1\n" * (FUNCTION_LINES + 1)

PLANTED = [
    (layers, "errors", '"""A leaf."""\nfrom mill.containerd import spec\n'),
    (layers, "units", '"""A leaf."""\nimport mill.store\n'),
    (layers, "tasks.states", '"""Pure, imports a shell."""\nfrom mill.tasks.service import serve\n'),
    (layers, "api.app", '"""A shell, imports another."""\nfrom mill.tasks.service import serve\n'),
    (layers, "client.client", '"""The client, imports the daemon\'s side."""\nfrom mill.store import Store\n'),
    (layers, "cli.run", '"""The CLI, imports even a pure module of the daemon."""\nfrom mill.containerd import reference\n'),
    (layers, "api.tasks", '"""The daemon\'s side, imports the client."""\ndef f():\n    from mill.client import http\n'),
    (purity, "tasks.states", '"""Pure."""\nasync def f(): ...\n'),
    (purity, "logs.index", '"""Pure."""\nfrom time import monotonic\n'),
    (purity, "units", '"""A leaf."""\nimport trio\n'),
    (file_size, "store", '"""Long."""\n' + "\n" * FILE_LINES),
    (file_size, "store", f'"""Longer. {FILE_REASON} it may."""\n' + "\n" * FILE_LINES_END),
    (function_size, "store", LONG_FUNCTION),
    (function_size, "store", LONG_FUNCTION.replace("def", "async def")),
    (names, "api.utils", '"""Doc."""\n'),
    (docstrings, "store", "import os\n"),
    (broad_excepts, "store", '"""Doc."""\ntry:\n    f()\nexcept Exception:\n    pass\n'),
    (broad_excepts, "store", '"""Doc."""\ntry:\n    f()\nexcept (OSError, Exception) as e:\n    print(e)\n'),
    (broad_excepts, "store", '"""Doc."""\ntry:\n    f()\nexcept:\n    pass\n'),
    (sleeps, "store", '"""Doc."""\nimport time\ntime.sleep(1)\n'),
    (sleeps, "store", '"""Doc."""\nfrom time import sleep\n'),
]  # fmt: skip

KEPT = [
    (layers, "errors", '"""A leaf."""\nimport os\n'),
    (layers, "model", '"""A leaf on a leaf."""\nfrom mill.units import MIB\n'),
    (layers, "api.app", '"""A shell."""\nfrom mill import model\nfrom mill.api import server\nfrom mill.tasks.states import move\n'),
    (layers, "cli.run", '"""The CLI."""\nfrom mill.client import Client\nfrom mill.units import parse_size\n'),
    (layers, "daemon.node", '"""Wires."""\nfrom mill.tasks import service\nfrom mill.store import Store\n'),
    (file_size, "store", f'"""Long. {FILE_REASON} of its tables."""\n' + "\n" * FILE_LINES),
    (function_size, "store", LONG_FUNCTION.replace("    x = 1\n", "", 1)),
    (broad_excepts, "store", '"""Doc."""\ntry:\n    f()\nexcept BaseException:\n    undo()\n    raise\n'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "name", "text"), PLANTED, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_planted_offence_is_found(rule: Callable[[Module], Iterator[str]], name: str, text: str) -> None:
    planted_targets = [
        parse(n, '"""There."""') for n in ("store", "tasks.service", "client.http", "api.server")
    ]
    before = list(MODULES)
    MODULES.extend(planted_targets)
    try:
        assert len(list(rule(parse(name, text)))) == 1
    finally:
        MODULES[:] = before


@pytest.mark.parametrize(("rule", "name", "text"), KEPT, ids=lambda value: getattr(value, "__name__", None))
def test_what_is_allowed_is_not_reported(
    rule: Callable[[Module], Iterator[str]], name: str, text: str
) -> None:
    assert list(rule(parse(name, text))) == []
