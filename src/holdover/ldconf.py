# SPDX-License-Identifier: Apache-2.0
"""Parses ld.so.conf: where ldconfig looks. The linker itself reads only the cache. Pure.

Source: ldconfig(8); glibc's elf/ldconfig.c (parse_conf).
"""

__all__ = ["parse_conf"]


def parse_conf(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Directories in order, and the patterns of files to be included."""
    directories: list[str] = []
    includes: list[str] = []
    for line in text.splitlines():
        words = line.partition("#")[0].partition("\0")[0].split()  # C ends a line there
        if words[:1] == ["include"]:
            includes += words[1:]
        elif words and words[0] != "hwcap":
            # "DIRECTORY=TYPE" is of the time before libc 6
            directories.append(words[0].partition("=")[0].rstrip("/") or "/")
    return tuple(directories), tuple(includes)
