# SPDX-License-Identifier: Apache-2.0
"""Program definitions: what holdover knows about each kind of program, as data.

The grammar is described at the head of qemu.toml.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdover.errors import MalformedError

__all__ = ["Program", "load_programs", "parse_program"]

SCHEMA = "holdover.program/1"


@dataclass(frozen=True, slots=True)
class Program:
    """One definition; the regular expressions are described in qemu.toml."""

    name: str
    executable: re.Pattern[str]
    installed: tuple[str, ...]
    packages: tuple[str, ...]
    variable: str
    guest: re.Pattern[bytes]
    stamp: re.Pattern[bytes]
    version: re.Pattern[bytes]
    directory: re.Pattern[bytes]
    modules: re.Pattern[bytes]

    def runs(self, executable: str) -> bool:
        """Whether an executable with this path may be an instance."""
        return self.executable.fullmatch(executable.rpartition("/")[2]) is not None

    def is_module(self, name: str) -> bool:
        """Whether a file `name`.so may be one of its modules."""
        return self.modules.fullmatch(b"\0%s\0" % name.encode("utf-8", "replace")) is not None

    def guest_name(self, command_line: bytes) -> str:
        """What people call the process, or ""."""
        found = self.guest.search(command_line)
        raw = next((group for group in found.groups() if group), b"") if found else b""
        return raw.decode("utf-8", "replace")


def load_programs(directory: Path = Path(__file__).parent) -> tuple[Program, ...]:
    """All definitions that come with holdover, by name."""
    return tuple(parse_program(path.read_text()) for path in sorted(directory.glob("*.toml")))


def parse_program(text: str) -> Program:
    """Parse one definition; raises `MalformedError` that names what is wrong with it."""
    try:
        data: dict[str, Any] = tomllib.loads(text)
        if data["schema"] != SCHEMA:
            raise MalformedError(f"a program definition of schema {data['schema']!r}")
        build = data["build"]
        return Program(
            name=data["name"],
            executable=re.compile(data["executable"]),
            installed=tuple(data["installed"]),
            packages=tuple(data["packages"]),
            variable=data["variable"],
            guest=_bytes_pattern(data["guest"]),
            stamp=_bytes_pattern(build["stamp"]),
            version=_bytes_pattern(build["version"]),
            directory=_bytes_pattern(build["directory"]),
            modules=_bytes_pattern(build["modules"]),
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, re.error) as error:
        raise MalformedError(f"a program definition makes no sense: {error!r}") from error


def _bytes_pattern(text: str) -> re.Pattern[bytes]:
    return re.compile(text.encode())
