# SPDX-License-Identifier: Apache-2.0
"""Everything that is parsed takes any input: the corpus, and inputs that are made of it.

What is raised is what the docstrings promise, in bounded memory, and in the end. `make fuzz` looks
further; what it finds is in the corpus.
"""

import ast
import signal
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import pytest
from fuzz.mutations import mutations, swollen
from fuzz.target import MIB, Target
from fuzz.targets import CORPUS, TARGETS, corpus_of

SOURCES = Path(__file__).parents[2] / "src/holdover"
HANGS = 10
"""Seconds of processor time after which an input is taken to have no end; none takes one."""
WAITS = 120
"""Seconds after which it is taken to wait for something that never comes."""
SWOLLEN = MIB // 8

NOT_FUZZED = {
    "cli/arguments.py:parse_arguments": "the operator's own command line, by argparse",
    "cli/setup.py:read_config": "made of what load_config has read",
    "demo/clock.py:_position": "the demo's own guest",
    "demo/clock.py:since": "the demo's own guest",
    "environ.py:read_environment": "read_variable",
    "environ.py:read_variable": "finds what read_again reads, which proc-mem reaches",
    "linux.py:birth": "the kernel's answer, of fixed size",
    "packages/dnf4.py:read_change": "parse_names, then asks rpm",
    "packages/fetch/private.py:read_host": "asks apt-config; parse_shell reads it",
    "packages/libdnf5.py:read_change": "parse_names, then asks rpm",
    "packages/zypp.py:read_change": "parse_steps, then asks rpm",
    "steps/deliver/preload.py:_send": "commands of our own definitions",
}
"""Parsers that no target reaches, each with the reason."""
DECODERS = frozenset(
    (
        *("json.loads", "tomllib.loads", "shlex.split", "tarfile.open", "datetime.strptime"),
        *("datetime.fromisoformat", "gzip.GzipFile", "lzma.LZMADecompressor", "html.unescape"),
        *("struct.unpack", "struct.unpack_from", "struct.iter_unpack", "int.from_bytes"),
    )
)


class Hang(BaseException):
    """No parser may catch it."""


@contextmanager
def ends() -> Iterator[None]:
    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise Hang

    timers = (
        (signal.SIGVTALRM, signal.ITIMER_VIRTUAL, HANGS),
        (signal.SIGALRM, signal.ITIMER_REAL, WAITS),
    )
    before = [signal.signal(number, give_up) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def tell(name: str, data: bytes) -> str:
    return f"{name}: {data[:200]!r} ({len(data)} bytes)"


def attempt(name: str, data: bytes) -> bool:
    try:
        with ends():
            return TARGETS[name].attempt(data)
    except BaseException as error:
        error.add_note(tell(name, data))
        raise


def memory_of(name: str, data: bytes) -> int:
    """Bytes that were allocated at the most."""
    tracemalloc.start()
    try:
        attempt(name, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(params=TARGETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_the_corpus_holds_is_understood_or_refused(name: str) -> None:
    understood = [attempt(name, data) for data in corpus_of(name).values()]
    assert any(understood), "nothing of it is understood"


def test_so_is_whatever_is_made_of_it(name: str) -> None:
    target, seeds = TARGETS[name], list(corpus_of(name).values())
    for data in (b"", *mutations(seeds, target.trials, target.longest)):
        attempt(name, data)


def test_memory_is_bounded_for_any_input(name: str) -> None:
    target = TARGETS[name]
    for data in (b"", *corpus_of(name).values()):
        assert memory_of(name, data) <= target.memory(len(data)), tell(name, data)


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.swells])
def test_what_is_long_or_deep_comes_to_an_end_in_bounded_memory(name: str) -> None:
    seed = next(iter(corpus_of(name).values()))
    for data in swollen(seed, SWOLLEN):
        assert memory_of(name, data) <= TARGETS[name].memory(len(data)), tell(name, data)


# -- the targets are all there is ------------------------------------------------------------------

Place = tuple[str, int]
"""File, relative to the sources, and line of the definition."""


def parsers() -> dict[Place, str]:
    """What is called parse_* or read_*, and whatever calls a decoder."""
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        file = str(path.relative_to(SOURCES))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (_is_named_so(node) or _decodes(node)):
                found[file, node.lineno] = f"{file}:{node.name}"
    return found


def _is_named_so(node: ast.FunctionDef) -> bool:
    is_method_of_protocol = ast.unparse(node.body[-1]).startswith(("'", '"'))
    return node.name.startswith(("parse_", "read_")) and not is_method_of_protocol


def _decodes(node: ast.FunctionDef) -> bool:
    calls = (inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call))
    names = {ast.unparse(call) for call in calls}
    return bool(names & DECODERS) or any(name.endswith(".iter_unpack") for name in names)


@contextmanager
def noting() -> Iterator[set[CodeType]]:
    """Which code was run, in this thread."""
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            seen.add(frame.f_code)

    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


def reached() -> set[Place]:
    with noting() as seen:
        for name in TARGETS:
            for data in corpus_of(name).values():
                attempt(name, data)
    below = f"{SOURCES}/"
    return {
        (code.co_filename.removeprefix(below), _first_line(code))
        for code in seen
        if code.co_filename.startswith(below)
    }


def _first_line(code: CodeType) -> int:
    """Of the definition, not of its decorators, which Python counts."""
    lines = Path(code.co_filename).read_text().splitlines()
    at = code.co_firstlineno
    while at < len(lines) and lines[at - 1].lstrip().startswith("@"):
        at += 1
    return at


def test_every_parser_is_reached_by_a_target() -> None:
    known, there = parsers(), reached()
    missed = {name for place, name in known.items() if place not in there}
    assert missed == set(NOT_FUZZED), "reach it by a target, or give a reason"


@pytest.mark.parametrize(
    "made",
    [
        "def parse_text(text): return text",
        "def f(data): return json.loads(data)",
        "def f(data): return _ENTRY.iter_unpack(data)",
    ],
)
def test_what_parses_is_recognised(made: str) -> None:
    (node,) = ast.parse(made).body
    assert isinstance(node, ast.FunctionDef)
    assert _is_named_so(node) or _decodes(node)


def test_each_target_has_a_corpus_and_each_corpus_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


# -- and a finding is one --------------------------------------------------------------------------


def _raises(_: bytes) -> None:
    raise KeyError("x")


def _grows(_: bytes) -> None:
    bytes(100 * MIB)


def _hangs(_: bytes) -> None:
    while True:
        pass


def planted(monkeypatch: pytest.MonkeyPatch, read: Callable[[bytes], object]) -> str:
    monkeypatch.setitem(TARGETS, "planted", Target(read, (ValueError,)))
    return "planted"


def test_an_error_that_was_not_promised_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        attempt(planted(monkeypatch, _raises), b"")


def test_so_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    name = planted(monkeypatch, _grows)
    assert memory_of(name, b"") > TARGETS[name].memory(0)


def test_so_is_what_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "HANGS", 1)
    with pytest.raises(Hang):
        attempt(planted(monkeypatch, _hangs), b"")
