# SPDX-License-Identifier: Apache-2.0
"""What an object opens by name: as it declares it, and as its constants suggest."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.elf_images import PF_R, PF_W, Image, RawSegment, build_id_note, dlopen_note, opened
from unit.hostile import refusal, sparse

from holdover.dlopened import declared_names, suggested_names
from holdover.elf import ElfFile
from holdover.errors import ElfError


def declared(*notes: bytes) -> tuple[str, ...]:
    return declared_names(ElfFile(opened(bytes(Image(notes=notes)))))


def suggested(constants: bytes, *imports: str, **more: object) -> tuple[str, ...] | None:
    image = Image(constants=constants, **more)  # type: ignore[arg-type]
    return suggested_names(ElfFile(opened(bytes(image))), frozenset(imports))


# -- as it declares it -----------------------------------------------------------------------------


def test_list_of_features_names_all_their_sonames_in_order() -> None:
    value = [
        {"feature": "tpm", "priority": "suggested", "soname": ["libtss2-esys.so.0"]},
        {"feature": "qr", "soname": ["libqrencode.so.4", "libqrencode.so.3"]},
    ]
    assert declared(dlopen_note(value)) == (
        *("libtss2-esys.so.0", "libqrencode.so.4", "libqrencode.so.3"),
    )


@pytest.mark.parametrize("soname", ["libz.so.1", ["libz.so.1"]])
def test_draft_of_one_object_is_read_too(soname: object) -> None:
    assert declared(dlopen_note({"soname": soname})) == ("libz.so.1",)


def test_names_of_all_notes_are_told_once() -> None:
    first, second = ([{"soname": names}] for names in (["a", "b"], ["b", "c"]))
    assert declared(dlopen_note(first), build_id_note(b"\1"), dlopen_note(second)) == (
        "a",
        "b",
        "c",
    )


@pytest.mark.parametrize("value", [[], [{"soname": []}]])
def test_empty_list_names_nothing(value: object) -> None:
    assert declared(dlopen_note(value)) == ()


def test_other_notes_name_nothing() -> None:
    assert declared(build_id_note(b'[{"soname": ["a"]}]')) == ()


WRONG = [
    b"",
    b"\0",
    b"[",
    b"\xff\xfe",
    b"{}",
    b"null",
    b"7",
    b'"libz.so.1"',
    b"[7]",
    b"[[]]",
    b'["libz.so.1"]',
    b'[{"feature": "x"}]',
    b'[{"soname": null}]',
    b'[{"soname": 7}]',
    b'[{"soname": {"libz.so.1": 1}}]',
    b'[{"soname": [7]}]',
    b'[{"soname": [["libz.so.1"]]}]',
    b'[{"soname": ""}]',
    b'[{"soname": ["a\\u0000b"]}]',
    b'[{"soname": ["a\\ud800b"]}]',
    b'[{"soname": ["a\\nb"]}]',
    b"[" * 100_000,
    b'{"soname":' * 100_000,
    b'[{"soname": [' + b"9" * 5000 + b"]}]",
]


@pytest.mark.parametrize("payload", WRONG, ids=range(len(WRONG)))
def test_note_that_makes_no_sense_is_refused(payload: bytes) -> None:
    content = bytes(Image(notes=[dlopen_note(payload)]))
    assert "a note about dlopen" in refusal(content, declared_names)


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_any_payload_is_read_or_refused(payload: bytes) -> None:
    refusal(bytes(Image(notes=[dlopen_note(payload)])), declared_names)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["soname", "feature"]), inner, max_size=2),
    max_leaves=8,
)


@given(JSON)
def test_any_value_names_sonames_or_is_refused(value: object) -> None:
    try:
        found = declared(dlopen_note(value))
    except ElfError:
        return
    assert set(found) <= set(texts(value))


def texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)


# -- as its constants suggest ----------------------------------------------------------------------

NAMES = b"\0libcuda.so.1\0libz.so\0liba-b_c+d.so.1.2.3\0"


@pytest.mark.parametrize("opener", ["dlopen", "dlmopen", "g_module_open"])
def test_names_among_the_constants_of_who_opens_something(opener: str) -> None:
    assert suggested(NAMES, "malloc", opener) == ("libcuda.so.1", "libz.so", "liba-b_c+d.so.1.2.3")


def test_who_opens_nothing_is_not_asked() -> None:
    assert suggested(NAMES, "malloc") is None


def test_who_opens_something_and_names_nothing_is_told_from_who_opens_nothing() -> None:
    assert suggested(b"", "dlopen") == ()


@pytest.mark.parametrize(
    "text",
    [
        b"libz.so.1 is missing",
        b"cannot open libz.so.1",
        b"/usr/lib/libz.so.1",
        b"z.so",
        b"lib.so",
        b"libz.so.one",
        b"libz.so.1.2.3.4",
        b"libz.a",
        b"lib" + b"z" * 61 + b".so",
    ],
)
def test_text_that_is_no_soname_suggests_nothing(text: bytes) -> None:
    assert suggested(text, "dlopen") == ()


def test_what_it_needs_anyway_and_itself_are_no_suggestions() -> None:
    found = suggested(NAMES, "dlopen", needed=["libz.so"], soname="libcuda.so.1")
    assert found == ("liba-b_c+d.so.1.2.3",)


def test_variables_are_no_constants() -> None:
    assert suggested(NAMES, "dlopen", flags=PF_R | PF_W) == ()


def test_names_are_not_looked_for_in_gigabytes(tmp_path: Path) -> None:
    many = [RawSegment(1, 4, 0, 1 << 40, 1 << 27, 1 << 27)] * 8
    path = sparse(tmp_path / "x.so", bytes(Image(extra_segments=many)), 1 << 31)
    with path.open("rb") as file, pytest.raises(ElfError, match="to be looked through"):
        suggested_names(ElfFile(file), frozenset(["dlopen"]))
