# SPDX-License-Identifier: Apache-2.0
"""What is read out of a dynamic linker's messages; they are those of glibc 2.36 under QEMU 7.2."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.loaderlog import Load, parse_loads
from holdover.programs import load_programs

COMPLAINT = next(p for p in load_programs() if p.name == "qemu").complaint
VIEW = "/usr/lib/holdover/view/qemu-a"
GMODULE = "/lib/x86_64-linux-gnu/libgmodule-2.0.so.0"
CURL, SSH, RBD = (f"{VIEW}/block-{name}.so" for name in ("curl", "ssh", "rbd"))


def said(*lines: str) -> str:
    """As the loader writes it: the number of the process, a tab, the message, an empty line."""
    return "".join(f"      8606:\t{line}\n      8606:\t\n" for line in lines)


def asked(path: str) -> str:
    return f"file={path} [0];  dynamically loaded by {GMODULE} [0]"


def needed(soname: str, by: str) -> str:
    return f"file={soname} [0];  needed by {by} [0]"


def found(name: str) -> str:
    return f"file={name} [0];  generating link map"


def loaded(path: str) -> str:
    after = f"{path}: error: symbol lookup error: undefined symbol: g_module_unload (fatal)"
    return said(asked(path), found(path), f"calling init: {path}", after)


def loads(text: str) -> list[Load]:
    return list(parse_loads(text, VIEW, COMPLAINT))


def test_module_whose_constructors_run_is_loaded() -> None:
    assert loads(loaded(CURL)) == [Load(CURL, "")]


def test_module_is_loaded_whatever_its_libraries_look_for_in_vain() -> None:
    text = said(asked(CURL), found(CURL), needed("libcurl.so.4", CURL), found("libcurl.so.4"))
    text += said(asked("/usr/lib/plugin.so"), "calling init: /lib/libcurl.so.4")
    assert loads(text + said(f"calling init: {CURL}")) == [Load(CURL, "")]


def test_missing_library_is_the_reason_that_the_program_gives() -> None:
    text = said(asked(SSH), found(SSH), needed("libssh.so.4", SSH), f"file={SSH} [0];  destroying")
    text += "failed to open module: libssh.so.4: cannot open shared object file\n"
    text += '{"error": {"class": "GenericError", "desc": "Unknown driver \'ssh\'"}}\n'
    assert loads(text) == [Load(SSH, "libssh.so.4: cannot open shared object file")]


def test_missing_library_is_told_even_if_the_program_says_nothing() -> None:
    text = said(asked(SSH), found(SSH), needed("libz.so.1", SSH), found("libz.so.1"))
    text += said(needed("libssh.so.4", SSH))
    assert loads(text) == [Load(SSH, f"libssh.so.4, which {SSH} needs, was not found")]


def test_undefined_symbol_is_told_even_if_the_program_says_nothing() -> None:
    error = f"{RBD}: error: symbol lookup error: undefined symbol: bdrv_graph_lock (fatal)"
    assert loads(said(asked(RBD), found(RBD), error)) == [
        Load(RBD, "undefined symbol: bdrv_graph_lock")
    ]


def test_load_that_was_cut_off_has_failed() -> None:
    assert loads(said(asked(RBD), found(RBD))) == [
        Load(RBD, "the dynamic linker did not finish loading it")
    ]


@pytest.mark.parametrize(
    "line",
    [
        "qemu-system-x86_64: failed to initialize module: /x.so",
        "Failed to initialize module: /x.so",
        '{"error": {"class": "GenericError", "desc": "failed to initialize module: /x.so"}}',
    ],
)
def test_module_that_the_program_does_not_accept_has_failed(line: str) -> None:
    assert loads(loaded(RBD) + line + "\n") == [Load(RBD, "/x.so")]


def test_complaint_is_about_the_module_that_was_asked_for_last() -> None:
    decoy = f"{VIEW}/ui-gtk.so"
    text = loaded(CURL) + said(asked(decoy)) + f"failed to open module: {decoy}: file too short\n"
    text += loaded(RBD)
    assert loads(text) == [Load(CURL, ""), Load(decoy, f"{decoy}: file too short"), Load(RBD, "")]


def test_each_attempt_counts() -> None:
    assert [load.path for load in loads(loaded(CURL) + loaded(RBD) + said(asked(CURL)))] == [
        CURL,
        RBD,
        CURL,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "failed to open module: before any was asked for\n",
        loaded("/usr/lib/qemu/block-curl.so"),
        loaded(f"{VIEW}/lib/libcurl.so.4"),
        loaded(f"{VIEW}-other/block-curl.so"),
        CURL,
        said(needed(CURL, GMODULE)),
    ],
)
def test_what_is_no_load_of_the_view_is_none(text: str) -> None:
    assert loads(text) == []


@given(st.text(), st.text())
def test_any_text_has_an_answer(text: str, more: str) -> None:
    text = f"{text}\n{said(asked(CURL))}{more}"
    assert parse_loads(text, VIEW, re.compile("(x*)"))


@pytest.mark.parametrize("part", [" [1];  needed by ", ": error: ", "a [1];"])
def test_line_of_a_million_characters_is_read_at_once(part: str) -> None:
    """It would take hours to try each of its parts as the end of a path."""
    line = "1:\tfile=x" + part * 60_000
    text = (
        f"1:\tfile=/v/a.so [0];  dynamically loaded by x [0]\n{line}\n1:\tcalling init: /v/a.so\n"
    )
    (load,) = parse_loads(text, "/v", COMPLAINT)
    assert load.failure == ""
