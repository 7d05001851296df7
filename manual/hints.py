# SPDX-License-Identifier: Apache-2.0
"""The values of the definitions that hooks need before they read a definition."""

from holdover.programs import Program, our_programs

__all__ = ["hints"]

_HEAD = """\
# SPDX-License-Identifier: Apache-2.0
\"\"\"Written by `make generated`: change the definitions in holdover/programs.

Name, packages, executable, directory: to parse the definitions takes as long as all else that most
hooks do.
\"\"\"

__all__ = ["HINTS"]

HINTS = (
"""


def hints() -> str:
    """The text of holdover/hints.py."""
    return _HEAD + "".join(map(_entry, our_programs())) + ")\n"


def _entry(program: Program) -> str:
    directory = program.directory.pattern.decode().replace(r"\x00", "")
    packages = "".join(f"            {_quoted(name)},\n" for name in program.packages)
    return f"""\
    (
        {_quoted(program.name)},
        (
{packages}        ),
        r{_quoted(program.executable.pattern)},
        r{_quoted(directory)},
    ),
"""


def _quoted(text: str) -> str:
    assert not {'"', "\n"} & set(text), text
    return f'"{text}"'
