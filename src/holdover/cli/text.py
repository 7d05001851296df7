# SPDX-License-Identifier: Apache-2.0
"""Text that others chose (names of guests, paths) on its way to a terminal."""

__all__ = ["printable"]


def printable(text: str) -> str:
    """`text` on one line, and without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
