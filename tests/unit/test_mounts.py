# SPDX-License-Identifier: Apache-2.0
"""The mount table as text, and when sharing forbids a mount."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.errors import MalformedError
from holdover.mounts import Mount, parse_mountinfo, sharing_refusal, view_on

LINE = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"


def mount(peer_group: int | None, point: str = "/usr") -> Mount:
    return Mount(1, 0, "/", point, frozenset({"rw"}), peer_group, "ext4")


def point_of(name: str) -> str:
    (found,) = parse_mountinfo(f"1 0 8:1 / {name} rw - ext4 /dev/sda1 rw\n")
    return found.point


def test_the_example_of_the_manual_page_is_read() -> None:
    (found,) = parse_mountinfo(LINE + "\n")
    options = frozenset({"rw", "noatime"})
    assert found == Mount(36, 35, "/mnt1", "/mnt2", options, None, "ext3", master=1)


@pytest.mark.parametrize(
    ("fields", "group"),
    [
        ("", None),
        ("shared:7 ", 7),
        ("master:3 ", None),
        ("shared:7 master:3 ", 7),
        ("master:3 propagate_from:2 ", None),
        ("unbindable ", None),
        ("something:new shared:12 ", 12),
    ],
)
def test_the_peer_group_is_among_the_optional_fields(fields: str, group: int | None) -> None:
    (found,) = parse_mountinfo(f"1 0 8:1 / /usr rw {fields}- ext4 /dev/sda1 rw")
    assert found.peer_group == group
    assert found.kind == "ext4"


@pytest.mark.parametrize(
    ("root", "snapshot"),
    [
        ("/usr/lib/holdover/view/qemu-1", "qemu-1"),
        ("/@rootfs/usr/lib/holdover/view/qemu-1", "qemu-1"),
        ("/usr/lib/holdover/view/qemu-1//deleted", "qemu-1"),
        ("/usr/lib/x86_64-linux-gnu/qemu", ""),
        ("/", ""),
    ],
)
def test_view_is_told_by_what_is_mounted(root: str, snapshot: str) -> None:
    found = replace(mount(None), root=root)
    assert view_on(found, Path("/usr/lib/holdover/view")) == snapshot


def test_all_lines_are_read_in_order() -> None:
    text = "".join(f"{n} 0 8:1 / /m{n} rw - tmpfs tmpfs rw\n" for n in range(3))
    assert [found.point for found in parse_mountinfo(text)] == ["/m0", "/m1", "/m2"]


def test_no_lines_are_no_mounts() -> None:
    assert parse_mountinfo("") == ()


@pytest.mark.parametrize(
    ("name", "point"),
    [
        (r"/a\040b", "/a b"),
        (r"/a\011b", "/a\tb"),
        (r"/a\012b", "/a\nb"),
        (r"/a\134b", r"/a\b"),
        (r"/a\134040b", r"/a\040b"),
        ("/a\udcffb", "/a\udcffb"),
        ("-", "-"),
    ],
)
def test_the_kernels_escapes_are_undone(name: str, point: str) -> None:
    assert point_of(name) == point


@pytest.mark.parametrize("character", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_only_a_newline_ends_a_line(character: str) -> None:
    """The kernel does not escape these, and anybody may name a mount point in a namespace."""
    assert point_of(f"/a{character}b") == f"/a{character}b"


def test_a_mount_point_cannot_forge_a_line() -> None:
    forged = "1 0 8:1 / /usr rw shared:1 - ext4 /dev/sda1 rw".replace(" ", r"\040")
    assert len(parse_mountinfo(f"1 0 8:1 / /a\x0b{forged} rw - ext4 /dev/sda1 rw\n")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "",
        "36 35 98:0 /mnt1 /mnt2 rw",
        "36 35 98:0 /mnt1 /mnt2 rw master:1 ext3 /dev/root rw",
        "x 35 98:0 / / rw - ext3 /dev/root rw",
        "36 y 98:0 / / rw - ext3 /dev/root rw",
        "36 35 98:0 / / rw shared:z - ext3 /dev/root rw",
        "36 35 98:0 / / rw shared:1 -",
    ],
)
def test_a_line_that_is_none_is_malformed(line: str) -> None:
    with pytest.raises(MalformedError, match="mountinfo"):
        parse_mountinfo(f"{LINE}\n{line}\n")


@given(st.text(alphabet="019 -:/,\\\nshared\x00\u0663"))
def test_any_text_is_read_or_malformed(text: str) -> None:
    try:
        parse_mountinfo(text)
    except MalformedError:
        return


@given(st.text(alphabet=st.characters(exclude_characters=" \t\n\\", exclude_categories=["Cs"])))
def test_any_name_comes_back(name: str) -> None:
    assert point_of(f"/{name}") == f"/{name}"


def test_an_unshared_mount_may_be_covered() -> None:
    assert sharing_refusal(mount(None), (mount(None), mount(3))) == ""


def test_a_mount_that_is_shared_with_nobody_may_be_covered() -> None:
    assert sharing_refusal(mount(3), (mount(None), mount(4))) == ""


def test_a_mount_without_others_may_be_covered() -> None:
    assert sharing_refusal(mount(3), ()) == ""


def test_a_mount_with_a_peer_elsewhere_is_refused_by_name() -> None:
    reason = sharing_refusal(mount(3, "/usr"), (mount(4), mount(3, "/")))
    assert "/usr" in reason
    assert "shared:3" in reason
