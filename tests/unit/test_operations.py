# SPDX-License-Identifier: Apache-2.0
"""docs/operations.md names every state and every message that an operator can meet, and no others.

What counts as a message: each text of several words in the sources below, with "…" for what is put
in when it is said. Every one has to be in the document as `code`, and every `code` in a column of
reasons or messages has to be in the sources.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdover.cli.arguments import parse_arguments
from holdover.config import SETTINGS
from holdover.model import State

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "src/holdover"
DOCUMENT = REPOSITORY / "docs/operations.md"
GAP = "…"
SPOKEN = (
    *("steps/plan.py", "steps/verify.py", "steps/scan.py", "steps/capture.py", "steps/collect.py"),
    *("steps/rehearse.py", "steps/explain.py", "steps/preview.py", "proving.py", "standin.py"),
    *("steps/deliver/environment.py", "steps/deliver/mount.py", "covering.py", "mounts.py"),
    *("steps/deliver/fallback.py", "fallbacks.py"),
    *("steps/deliver/run.py", "steps/deliver/preload.py", "qmp.py", "preloading.py", "leads.py"),
    "cli/running.py",
    *("steps/deliver/variable.py", "variables.py", "pointers.py", "pointed.py"),
    *("environ.py", "trust.py", "lateloads.py", "forecast.py", "search.py", "loaded.py"),
    *("elsewhere.py", "touching.py", "silence.py"),
    *("libraries.py", "procfs.py", "memory.py", "flow.py", "looking.py"),
    *("store.py", "staging.py", "durable.py"),
    *("judging.py", "releasing.py", "manifests.py", "rescuing.py", "steps/holders.py"),
    *("stderr.py", "complaints.py"),
    *("rehearsal.py", "run.py", "cli/hooks.py", "cli/unseen.py", "leaving.py", "cli/leaving.py"),
    *("cli/installation.py", "cli/reports.py", "cli/services.py", "cli/timer.py"),
)
NOT_FOR_OPERATORS = {
    # what an aim is, for the reader of the code
    "change nothing",
    "before a change: whatever loads late",
    "after a change: whatever a late load would fail in",
    "after a change, without the old files: whatever a late load would kill",
    # why a snapshot is taken; all is well
    "a late load of … must not kill it",
    "needed by …",
    "installed, and about to be replaced",
    # a file among the leases that is passed over
    "… is no lease",
    # what is being done, in "could not …" or while it is
    *("prepare the store", "clean the store", "write to the store", "commit a snapshot"),
    *("remove a snapshot", "record a rehearsal", "read the leases", "write a lease"),
    *("drop a lease", "read the store", "write the decoys", "write the links"),
    *(
        "prepare a rescue",
        "lead a build to its modules",
        "drop a link",
        "look for the files of build …",
    ),
    *(
        "hold …",
        "looking at processes",
        "looking for the packages of …",
        "holding the modules of …",
        "rehearsing …",
    ),
    *("make … lead to what is held", "remove …", "read which fallback directories there are"),
    # how a library is found
    "mapped already",
    # what was done with the timer
    "enabled and started",
    # who has no name
    "a guest",
    # what other programs are told
    "holdover: the stand-in begins",
    "holdover: … (… s)",
}
_SPAN = re.compile(r"(`+) ?(.+?) ?\1(?!`)")


def messages(source: str) -> Iterator[str]:
    """All texts with a blank in them; no docstrings, scripts and patterns, and no hints.

    A hint is what to do, and comes with its message.
    """
    tree = ast.parse(source)
    unsaid = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            unsaid |= {id(value) for value in node.values}
        elif isinstance(node, ast.keyword) and node.arg == "hint":
            unsaid |= {id(part) for part in ast.walk(node)}
    for node in ast.walk(tree):
        text = _text(node).strip() if id(node) not in unsaid else ""
        if re.search(r"[A-Za-z]{2}", text) and " " in text and not set(text) & {"\n", "\\"}:
            yield text


def _text(node: ast.AST) -> str:
    match node:
        case ast.JoinedStr(values=values):
            return "".join(_text(v) if isinstance(v, ast.Constant) else GAP for v in values)
        case ast.Constant(value=str(text)):
            return text
    return ""


def spans(text: str) -> list[str]:
    """What is written as code, blocks aside."""
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [found[2].strip() for line in plain.splitlines() for found in _SPAN.finditer(line)]


def tables(text: str) -> Iterator[tuple[str, str]]:
    """(heading, cell) for each cell of each table."""
    headings: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells:
            headings = []
        elif not headings:
            headings = cells
        elif not set(line) <= set("|-"):
            yield from zip(headings, cells, strict=True)


def fits(message: str, told: str) -> bool:
    """Whether the constant parts of the message are in what is told, in order."""
    parts = map(re.escape, filter(None, message.replace("`{}`", GAP).split(GAP)))
    return re.search(".*".join(parts), told) is not None


def untold(source: str, document: str) -> list[str]:
    said = [m for m in messages(source) if m not in NOT_FOR_OPERATORS]
    told = spans(document)
    return [message for message in said if not any(fits(message, text) for text in told)]


def unsaid(document: str, sources: str) -> list[str]:
    """Messages in the document of which a part is nowhere in the sources."""
    listed = [c for heading, c in tables(document) if heading in ("reason", "message")]
    return [
        message
        for cell in listed
        for message in spans(cell)
        if not all(part.strip(" ,;()") in sources for part in re.split(GAP, message))
    ]


# -- the document ----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
def test_each_state_has_a_section(state: State) -> None:
    assert f"\n### {state}\n" in DOCUMENT.read_text()


@pytest.mark.parametrize("path", SPOKEN)
def test_each_message_is_told(path: str) -> None:
    missing = untold((SOURCES / path).read_text(), DOCUMENT.read_text())
    assert not missing, f"docs/operations.md says nothing of what {path} says: {missing}"


def test_nothing_is_told_that_is_never_said() -> None:
    sources = "\n".join(
        ast.unparse(ast.parse(path.read_text())) + "\n".join(messages(path.read_text()))
        for path in SOURCES.rglob("*.py")
    )
    assert not unsaid(DOCUMENT.read_text(), sources)


def test_each_exemption_is_still_needed() -> None:
    said = {message for path in SPOKEN for message in messages((SOURCES / path).read_text())}
    assert said >= NOT_FOR_OPERATORS


def test_each_link_within_the_document_leads_somewhere() -> None:
    text = DOCUMENT.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    there = {re.sub(r"[^a-z -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= there


def command_lines() -> list[str]:
    """Each line of a block, and each `code`, that calls holdover."""
    text = DOCUMENT.read_text()
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()] + spans(text)
    return sorted({line for line in lines if re.match(rf"holdover [a-z][^{GAP}]*$", line)})


@pytest.mark.parametrize("line", command_lines())
def test_each_command_can_be_typed(line: str) -> None:
    words = shlex.split(line.replace("PID", "4711").partition("#")[0])[1:]
    assert parse_arguments(words).command == words[0]


def test_each_setting_that_is_named_is_one() -> None:
    keys = {setting.key for setting in SETTINGS}
    tables = {key.partition(".")[0] for key in keys if "." in key}
    named = {span.split(" ")[0] for span in spans(DOCUMENT.read_text())}
    named = {name for name in named if re.fullmatch(r"[a-z]+\.[a-z]+", name)}
    assert {name for name in named if name.partition(".")[0] in tables} <= keys


# -- and each check can fail -----------------------------------------------------------------------


def test_message_that_is_not_told_is_named() -> None:
    source = 'def f(a: int) -> str:\n    """It says so."""\n    return f"{a} guests are lost"\n'
    assert untold(source, "| `… guests are lost` |") == []
    assert untold(source, "| `… guests are found` |") == ["… guests are lost"]


def test_message_that_is_never_said_is_named() -> None:
    document = "| message | do |\n|---|---|\n| `… guests are lost` | `holdover status` |\n"
    assert unsaid(document, "f'{a} guests are lost'") == []
    assert unsaid(document, "nothing") == ["… guests are lost"]
