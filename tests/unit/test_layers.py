# SPDX-License-Identifier: Apache-2.0
"""The layers and the house rules, read from the sources; each rule is shown to be able to fail."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "src"
SPDX = "# SPDX-License-Identifier: Apache-2.0"
MAX_FUNCTION_LINES = 40
MAX_FILE_LINES = 400

LAYERS = {
    "words": ("errors", "identity", "held", "model", "hints"),
    "pure": (
        *(
            "elf",
            "hashtables",
            "loaderlog",
            "rehearsal",
            "versions",
            "symbols",
            "dlopened",
            "rewrite",
        ),
        *("ldcache", "ldconf", "hwcaps", "linker", "forecast", "mounts", "search", "fitting"),
        *("kinds", "judging", "answers", "complaints", "places", "monitors"),
    ),
    "edge": (
        *("procfs", "memory", "loaded", "libraries", "pending", "lateloads", "trust"),
        *("rooted", "sight"),
        *("environ", "linux", "run", "covering", "standin", "journal", "notify", "foresight"),
        *("stderr", "qmp", "concern", "mounted", "entering", "elsewhere", "touching", "silence"),
        *("slack", "sameness", "variables", "pointers"),
    ),
    "definitions": ("programs", "packages", "builds", "ondisk", "pointed"),
    "store": (
        *("store", "manifests", "staging", "pins", "released", "durable"),
        *("fallbacks", "leads", "locks", "replaced"),
    ),
    "steps": ("steps",),
    "flow": (
        *("flow", "looking", "delivering", "preloading"),
        *("proving", "rescuing", "releasing", "leaving"),
    ),
    "front": ("config", "cli", "demo", "__main__"),
}
MAY_USE = {
    "words": {"words"},
    "pure": {"words", "pure"},
    "edge": {"words", "pure", "edge"},
    "definitions": {"words", "pure", "edge", "definitions"},
    "store": {"words", "pure", "edge", "store"},
    "steps": {"words", "pure", "edge", "definitions", "store"},
    "flow": {"words", "pure", "edge", "definitions", "store", "steps", "flow"},
    "front": set(LAYERS),
}
PRINTING = ("cli/", "demo/", "__main__.py")  # __main__.py hands main()'s result to sys.exit


@dataclass(frozen=True, slots=True)
class Source:
    """One file; `path` is relative to src/holdover."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def module(self) -> str:
        """Dotted, without "holdover."; "" for the package itself."""
        return self.path.removesuffix(".py").removesuffix("__init__").rstrip("/").replace("/", ".")


@dataclass(frozen=True, slots=True)
class Import:
    name: str
    lazy: bool
    """Inside a function, so that it costs nothing before it is needed."""


Rule = Callable[[Source], Iterator[str]]


def read_sources() -> list[Source]:
    package = SOURCES / "holdover"
    return [Source(str(p.relative_to(package)), p.read_text()) for p in package.rglob("*.py")]


MODULES = frozenset(source.module for source in read_sources())


def imports(source: Source) -> Iterator[Import]:
    yield from _imports_below(source, source.tree, lazy=False)


def _imports_below(source: Source, node: ast.AST, *, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (Import(name, lazy) for name in _names_from(source, child))
        else:
            inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports_below(source, child, lazy=inside)


def _names_from(source: Source, node: ast.ImportFrom) -> Iterator[str]:
    """`from package import module` names the module; relative imports are made absolute."""
    origin = node.module or ""
    if node.level:
        package = ["holdover", *source.path.split("/")[:-1]]
        origin = ".".join([*package[: len(package) + 1 - node.level], *filter(None, [origin])])
    for alias in node.names:
        name = f"{origin}.{alias.name}"
        yield name if name.removeprefix("holdover.") in MODULES else origin


def layer_of(module: str) -> str:
    top = module.split(".")[0]
    return next((layer for layer, modules in LAYERS.items() if top in modules), "")


# -- rules -----------------------------------------------------------------------------------------


def keeps_to_its_layer(source: Source) -> Iterator[str]:
    own = layer_of(source.module)
    if source.module and not own:
        yield f"{source.path} belongs to no layer"
    for name in {i.name for i in imports(source)}:
        if name == "holdover" or not name.startswith("holdover."):
            continue
        used = layer_of(name.removeprefix("holdover."))
        if used not in MAY_USE.get(own, set()):
            yield f"{source.path} ({own}) imports {name} ({used or 'no layer'})"


def prints_only_in_front(source: Source) -> Iterator[str]:
    if source.path.startswith(PRINTING):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call | ast.Raise | ast.ImportFrom) and _prints_or_exits(node):
            yield f"{source.path}:{node.lineno} prints or exits: {ast.unparse(node)}"


def _prints_or_exits(node: ast.Call | ast.Raise | ast.ImportFrom) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "sys" and any(alias.name == "exit" for alias in node.names)
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) in ("print", "exit", "quit", "sys.exit")
    raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    return raised is not None and ast.unparse(raised) == "SystemExit"


def only_in(package: str, *places: str, lazily: bool = False) -> Rule:
    """The rule that `package` is imported in `places` only, and there only inside functions."""

    def rule(source: Source) -> Iterator[str]:
        for found in imports(source):
            if found.name.split(".")[0] != package:
                continue
            if not source.path.startswith(places):
                yield f"{source.path} imports {found.name}"
            elif lazily and not found.lazy:
                yield f"{source.path} imports {found.name} outside of a function"

    return rule


def has_short_functions(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{source.path}:{node.lineno} {node.name} has {lines} lines"


def is_short(source: Source) -> Iterator[str]:
    lines = len(source.text.splitlines())
    if lines > MAX_FILE_LINES:
        yield f"{source.path} has {lines} lines"


def begins_with_the_licence(source: Source) -> Iterator[str]:
    line = SPDX.replace("#", "//") if source.path.endswith(".c") else SPDX
    if source.text and not source.text.startswith(f"{line}\n"):
        yield f"{source.path} does not begin with {line!r}"


CTYPES = only_in("ctypes", "linux.py")
SUBPROCESS = only_in("subprocess", "run.py", "demo/root.py")
RICH = only_in("rich", "cli/", "demo/", lazily=True)
QMP = only_in("qemu", "demo/", "qmp.py", lazily=True)
PROMETHEUS = only_in("prometheus_client", "cli/metrics.py", lazily=True)

RULES: dict[str, Rule] = {
    "layers": keeps_to_its_layer,
    "print": prints_only_in_front,
    "ctypes": CTYPES,
    "subprocess": SUBPROCESS,
    "rich": RICH,
    "qmp": QMP,
    "prometheus": PROMETHEUS,
    "functions": has_short_functions,
    "files": is_short,
    "licence": begins_with_the_licence,
}


# -- the sources keep them -------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_the_sources_keep_the_rule(rule: Rule) -> None:
    broken = [problem for source in read_sources() for problem in rule(source)]
    assert not broken, "\n".join(broken)


def test_every_layer_has_sources() -> None:
    assert {layer_of(module) for module in MODULES if module} == set(LAYERS)


def test_every_named_module_exists() -> None:
    named = {name for modules in LAYERS.values() for name in modules}
    assert named == {module.split(".")[0] for module in MODULES if module}


@pytest.mark.parametrize("package", ["ctypes", "subprocess", "rich", "qemu", "prometheus_client"])
def test_what_is_confined_is_used_at_all(package: str) -> None:
    used = {i.name.split(".")[0] for source in read_sources() for i in imports(source)}
    assert package in used


@pytest.mark.parametrize("directory", ["src", "tests", "benchmarks", "manual"])
def test_every_file_begins_with_the_licence(directory: str) -> None:
    files = [
        Source(str(path.relative_to(REPOSITORY)), path.read_text())
        for path in (REPOSITORY / directory).rglob("*")
        if path.suffix in (".py", ".toml", ".sh", ".c") and ".egg-info" not in str(path)
    ]
    assert len(files) >= 5
    broken = [problem for source in files for problem in begins_with_the_licence(source)]
    assert not broken, "\n".join(broken)


# -- and each rule can fail ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "named"),
    [
        ("model.py", "from holdover.elf import ElfFile", "holdover.elf"),
        ("elf.py", "from holdover.procfs import ProcFs", "holdover.procfs"),
        ("elf.py", "from holdover import linux", "holdover.linux"),
        ("elf.py", "import holdover.linux", "holdover.linux"),
        ("procfs.py", "def f():\n    from holdover.store import Store", "holdover.store"),
        ("store.py", "from holdover.programs import Program", "holdover.programs"),
        ("builds.py", "from holdover.store import Store", "holdover.store"),
        ("steps/plan.py", "from holdover.steps.scan import scan", "holdover.steps.scan"),
        ("steps/plan.py", "from . import scan", "holdover.steps.scan"),
        ("steps/deliver/mount.py", "from ..verify import verify", "holdover.steps.verify"),
        ("steps/plan.py", "from holdover.flow import Holdover", "holdover.flow"),
        ("flow.py", "from holdover.cli import output", "holdover.cli.output"),
        ("flow.py", "from holdover.demo.root import sweep", "holdover.demo.root"),
        ("flow.py", "from holdover.utils import drawer", "holdover.utils"),
        ("utils.py", "", "utils.py"),
    ],
)
def test_a_broken_layer_is_named_with_file_and_import(path: str, text: str, named: str) -> None:
    (problem,) = keeps_to_its_layer(Source(path, text))
    assert path in problem
    assert named in problem


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (prints_only_in_front, "store.py", "print('x')"),
        (prints_only_in_front, "steps/scan.py", "def f():\n    sys.exit(1)"),
        (prints_only_in_front, "flow.py", "raise SystemExit(2)"),
        (prints_only_in_front, "flow.py", "raise SystemExit"),
        (prints_only_in_front, "flow.py", "from sys import exit"),
        (CTYPES, "memory.py", "import ctypes.util"),
        (CTYPES, "cli/main.py", "def f():\n    from ctypes import CDLL"),
        (SUBPROCESS, "flow.py", "from subprocess import run"),
        (SUBPROCESS, "demo/guest.py", "import os, subprocess"),
        (RICH, "flow.py", "def f():\n    import rich"),
        (RICH, "cli/output.py", "from rich.table import Table"),
        (RICH, "cli/output.py", "if True:\n    import rich"),
        (QMP, "demo/guest.py", "from qemu.qmp import QMPClient"),
        (QMP, "cli/main.py", "def f():\n    import qemu.qmp"),
        (PROMETHEUS, "cli/metrics.py", "from prometheus_client import Gauge"),
        (has_short_functions, "elf.py", "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES),
        (is_short, "elf.py", "x = 1\n" * (MAX_FILE_LINES + 1)),
        (begins_with_the_licence, "elf.py", '"""Reads."""\n' + SPDX),
    ],
)
def test_what_breaks_a_rule_is_named(rule: Rule, path: str, text: str) -> None:
    (problem,) = rule(Source(path, text))
    assert path in problem


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (keeps_to_its_layer, "flow.py", "from holdover.steps.deliver import mount\nimport os"),
        (keeps_to_its_layer, "cli/main.py", "from holdover import __version__"),
        (keeps_to_its_layer, "covering.py", "from holdover import linux"),
        (prints_only_in_front, "cli/output.py", "print('x')"),
        (prints_only_in_front, "elf.py", "x = 'print(1)'  # print(1)\nself.print(1)"),
        (CTYPES, "linux.py", "import ctypes"),
        (RICH, "cli/output.py", "def f():\n    import rich"),
        (QMP, "demo/guest.py", "class A:\n    def f(self):\n        import qemu.qmp"),
        (has_short_functions, "elf.py", "def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1)),
        (is_short, "elf.py", "x = 1\n" * MAX_FILE_LINES),
        (begins_with_the_licence, "elf.py", SPDX + "\n"),
    ],
)
def test_what_keeps_a_rule_is_not_named(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text))) == []
