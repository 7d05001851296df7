# SPDX-License-Identifier: Apache-2.0
"""Where ldconfig looks, as ld.so.conf says it."""

import pytest

from holdover.ldconf import parse_conf


@pytest.mark.parametrize(
    ("text", "directories", "includes"),
    [
        ("", (), ()),
        ("/opt/lib\n/srv/lib/\n", ("/opt/lib", "/srv/lib"), ()),
        ("  /opt/lib  # ours\n# /not/this\n\n", ("/opt/lib",), ()),
        ("include ld.so.conf.d/*.conf\n", (), ("ld.so.conf.d/*.conf",)),
        ("include\ta.conf b.conf\n", (), ("a.conf", "b.conf")),
        ("/usr/X11R6/lib=libc5\n", ("/usr/X11R6/lib",), ()),
        ("hwcap 0 nosegneg\n/opt/lib", ("/opt/lib",), ()),
        ("/\n", ("/",), ()),
    ],
)
def test_directories_and_includes_are_told_in_order(
    text: str, directories: tuple[str, ...], includes: tuple[str, ...]
) -> None:
    assert parse_conf(text) == (directories, includes)


def test_line_ends_where_it_ends_for_c() -> None:
    assert parse_conf("/a\0b\n\0/c\ninclude x\0y\n") == (("/a",), ("x",))
