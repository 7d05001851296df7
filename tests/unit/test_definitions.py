# SPDX-License-Identifier: Apache-2.0
"""Definitions that an operator writes: what they may say, and what is told of a wrong one."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from unit.elf_images import PF_R, PF_W, Image, opened
from unit.factories import build, process

from holdover.builds import read_build, read_module_stamp
from holdover.errors import MalformedError
from holdover.programs import parse_program
from holdover.staging import Staging
from holdover.variables import continued, parse_name

DEFINITION = r"""
schema = "holdover.program/1"
name = "pbx"
executable = 'pbx'
installed = ["/usr/sbin/pbx"]
packages = ["pbx"]
deliveries = ["variable"]
guest = '\x00-n\x00([^\x00]+)'
[variable]
symbol = "module_dir"
kind = "pointer"
value = '/.*'
[build]
stamp = '\x01build[0-9]'
stamp_in = "data"
exact = false
version = '\x00pbx ([0-9.]+)\x00'
directory = '\x00(/usr/lib/pbx)\x00'
"""
STRICT = DEFINITION + "strict = true\n"


def changed(old: str, new: str, text: str = DEFINITION) -> str:
    assert old in text
    return text.replace(old, new, 1)


# -- what is told ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (changed("exact =", "exakt ="), "[build] has a key that is not known, 'exakt'"),
        (changed("name =", "nom ="), "it has a key that is not known, 'nom'"),
        (changed("guest =", "# "), "it lacks 'guest'"),
        (changed("version =", "# "), "it lacks 'version'"),
        (changed("'pbx'", "'/usr/sbin/pbx'"), "told by its file name, without a directory"),
        (changed("'/.*'", "'('"), "'(' is no regular expression: missing )"),
        (changed("(/usr/lib/pbx)", "/usr/lib/pbx"), "/usr/lib/pbx\\\\x00' has no group"),
        (changed('["variable"]', '["link"]'), "'link' is none of run, environment, variable"),
        (changed('["variable"]', '["environment"]'), "is nothing without 'environment'"),
        (changed('"pointer"', '"text"'), "'text' is none of array, pointer"),
        (changed('"pointer"', '"array"'), "it lacks 'size'"),
        (changed('= "pbx"', "= pbx"), "Invalid value (at line 3"),
        (changed("exact = false", "", STRICT), "'strict' is nothing unless 'exact' is false"),
    ],
)
def test_what_is_wrong_is_told_without_the_words_of_python(text: str, told: str) -> None:
    with pytest.raises(MalformedError) as refused:
        parse_program(text)
    assert told in refused.value.message
    assert "Error" not in refused.value.message


@pytest.mark.parametrize("names", ['["a/b"]', '["../b"]', '["/b"]', '"b"', "[5]"])
def test_what_stays_in_place_lies_right_in_the_directory(names: str) -> None:
    with pytest.raises(MalformedError):
        parse_program(f"{DEFINITION}in_place = {names}")


def test_what_stays_in_place_is_not_for_views_that_cover_it() -> None:
    wanted = DEFINITION + 'in_place = ["helpers"]'
    assert parse_program(wanted).in_place == ("helpers",)
    with pytest.raises(MalformedError, match="not for the deliveries mount"):
        parse_program(changed('["variable"]', '["variable", "mount"]', wanted))


def test_a_view_has_links_to_what_stays_in_place(tmp_path: Path) -> None:
    (tmp_path / "view").mkdir()
    Staging(tmp_path / "view").add_links({"helpers": tmp_path / "helpers"})
    assert (tmp_path / "view/helpers").readlink() == tmp_path / "helpers"


# -- what it finds ---------------------------------------------------------------------------------


def image(*strings: bytes, flags: int) -> bytes:
    return bytes(Image(constants=b"\0".join((b"", *strings, b"")), flags=flags))


@pytest.mark.parametrize(("flags", "version"), [(PF_R, "1.2"), (PF_R | PF_W, "")])
def test_stamp_and_directory_may_lie_in_data_that_is_not_constant(flags: int, version: str) -> None:
    program = parse_program(DEFINITION)
    content = image(b"pbx 1.2", b"\x03\0\0\0\x01build7", b"/usr/lib/pbx", flags=flags)
    with opened(content) as file:
        found = read_build(file, program)
        assert read_module_stamp(file, program) == found.stamp == b"\x01build7".hex()
    assert (found.version, found.directories) == (version, (Path("/usr/lib/pbx"),))


def test_without_a_stamp_nothing_else_is_looked_for_there() -> None:
    with opened(image(b"pbx 1.2", b"/usr/lib/pbx", flags=PF_R | PF_W)) as file:
        found = read_build(file, parse_program(DEFINITION))
    assert (found.stamp, found.directories) == (None, ())


def test_an_executable_that_was_installed_once_more_is_no_successor() -> None:
    server = process(replaced=True, build=replace(build(), exact=False))
    assert server.outlived
    assert not replace(server, reinstalled=True).outlived


# -- names in variables ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "own", "led_to"),
    [
        ("/usr/lib/pbx", "/usr/lib/pbx", None),
        ("/usr/lib/pbx/", "/usr/lib/pbx/", None),
        ("/usr/lib/pbx/../../../view/a", "/usr/lib/pbx", "/view/a"),
        ("/usr/lib/pbx//../../../view/a", "/usr/lib/pbx/", "/view/a"),
        ("/usr/lib/pbx/../../../../../view/a", "/usr/lib/pbx", "/view/a"),
        ("/usr/lib/../lib64/pbx", "/usr/lib/../lib64/pbx", None),
        ("/usr/lib/../lib64/pbx/../../../../../view/a", "/usr/lib/../lib64/pbx", "/view/a"),
        ("/usr/lib/pbx/..", "/usr/lib/pbx/..", None),
        ("/usr/lib/pbx/../../..", "/usr/lib/pbx/../../..", None),
        ("", "", None),
        ("pbx", "pbx", None),
    ],
)
def test_a_name_is_told_from_what_it_was_continued_by(
    text: str, own: str, led_to: str | None
) -> None:
    name = parse_name(text.encode())
    assert (name.text, name.before) == (text.encode(), own.encode())
    assert name.led_to == (Path(led_to) if led_to else None)


PARTS = st.lists(st.sampled_from(["usr", "lib64", "..", "x.y", ".", "...", "a b"]), max_size=6)


@given(PARTS, st.sampled_from(["", "/", "//"]), st.integers(1, 5))
def test_whatever_the_program_chose_comes_back(parts: list[str], end: str, depth: int) -> None:
    """One whose own steps up reach the root could be a name that leads somewhere, and is none."""
    own = f"/{'/'.join(parts)}/modules{end}"
    assume(parse_name(own.encode()).led_to is None)
    view = Path("/view", *["v"] * depth)
    text = continued(parse_name(own.encode()), f"/nowhere/{own}", view)
    found = parse_name(text)
    assert (found.before, found.led_to) == (own.encode(), view)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_name(text: bytes) -> None:
    name = parse_name(text)
    assert text.startswith(name.before)
