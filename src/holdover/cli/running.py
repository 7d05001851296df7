# SPDX-License-Identifier: Apache-2.0
"""`holdover run`: start a program that looks for modules in the directory of its build first.

Most often that directory is not there, and the program goes on to its own. Once something is held
for the build, the directory is a link to it. The program comes first: whatever goes wrong here, it
is started, as it would have been without us: its environment is what we were given (not what Python
made of it), its file is looked for as execvp(3) does.
"""

import errno
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from holdover.cli.text import printable
from holdover.errors import HoldoverError, RefusedError

if TYPE_CHECKING:
    from holdover.programs import Program

__all__ = ["run_words", "run_run"]

Environment = dict[bytes, bytes]

_NOT_FOUND, _NOT_STARTED = 127, 126  # as of env(1)
_SHELL = b"/bin/sh"


def run_run(options: Namespace) -> int:
    return _start(options.words, options.setting)


def run_words(words: Sequence[str]) -> int:
    """`[-o KEY=VALUE]... [--] CMD [ARG]...`; returns only if CMD could not be started."""
    at, settings = 0, []
    while words[at : at + 1] == ["-o"] and at + 1 < len(words):
        settings.append(words[at + 1])
        at += 2
    command = words[at + 1 :] if words[at : at + 1] == ["--"] else words[at:]
    if not command or (command[0].startswith("-") and words[at] != "--"):
        from holdover.cli.arguments import parse_arguments  # a question, or a mistake

        return run_run(parse_arguments(["run", *words]))
    return _start(command, settings)


def _start(words: Sequence[str], settings: Sequence[str]) -> int:
    command = [os.fsencode(word) for word in words]
    environment = _given_environment()
    path = _find(command[0], environment)
    if path is None:
        return _complain(f"{words[0]}: there is no such program", _NOT_FOUND)
    try:
        environment |= _pointed(path, environment, settings)
    except (HoldoverError, OSError) as error:
        _tell_unpointed(words[0], str(error))
    except Exception as error:  # the program comes first
        _tell_unpointed(words[0], f"unexpected: {error!r}")
    return _execute(path, command, environment)


def _given_environment() -> Environment:
    """Python sets LC_CTYPE where there is no locale; the program would see that."""
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environb)
    pairs = (entry.partition(b"=") for entry in entries if b"=" in entry)
    environment: Environment = {}
    for name, _, value in pairs:
        environment.setdefault(name, value)
    return environment


def _find(name: bytes, environment: Environment) -> bytes | None:
    """Where execvp(3) would find it; None if nowhere."""
    if b"/" in name:
        return name if os.path.exists(name) else None  # noqa: PTH110
    found = None
    for directory in environment.get(b"PATH", os.fsencode(os.defpath)).split(b":"):
        path = os.path.join(directory or b".", name)  # noqa: PTH118
        if os.path.isfile(path):  # noqa: PTH113
            found = found or path
            if os.access(path, os.X_OK):
                return path
    return found


def _pointed(path: bytes, environment: Environment, settings: Sequence[str]) -> Environment:
    """What to add to the environment; raises what is in the way."""
    from holdover.config import load_config
    from holdover.places import place_name, places
    from holdover.programs import load_programs
    from holdover.trust import distrust

    config = load_config(settings)
    for problem in config.problems:
        _complain(problem)
    executable = os.path.realpath(os.fsdecode(path))
    program = next((p for p in load_programs() if p.runs(executable)), None)
    if program is None:
        raise RefusedError("it is no program that holdover knows")
    if "run" not in program.deliveries:
        raise RefusedError("nobody can do that for programs of its kind")
    if program.name in config.programs_disabled or "run" not in config.deliveries:
        raise RefusedError("the configuration asks for that")
    directory = places(config.store_objects / "view")
    if problem := distrust(directory):
        raise RefusedError(f"{directory} is not used: {problem}")
    build_id = _build_id(executable, program)
    library_path = os.fsdecode(environment.get(b"LD_LIBRARY_PATH", b""))
    place = os.fsencode(directory / place_name(program.name, build_id, library_path))
    variable = program.environment.encode()
    if environment.get(variable, place) != place:
        raise RefusedError(f"{program.environment} is set already, and counts")
    return {variable: place}


def _build_id(executable: str, program: "Program") -> str:
    """Looked at once more when it was read: another one may have been put in its place."""
    from holdover.builds import read_build

    with open(executable, "rb", opener=_without_waiting) as file:
        if file.read(2) == b"#!":
            raise RefusedError("it is a script; name the program that it starts")
        build = read_build(file, program)
        if not os.path.samestat(os.fstat(file.fileno()), os.stat(executable)):  # noqa: PTH116
            raise RefusedError("it is being replaced")
    if build.stamp is None or not build.build_id:
        raise RefusedError("this build of it loads no modules")
    return build.build_id


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _execute(path: bytes, command: list[bytes], environment: Environment) -> int:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and that is inherited
        signal.signal(number, signal.SIG_DFL)
    try:
        try:
            os.execve(path, command, environment)  # noqa: S606
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            script = [_SHELL, path, *command[1:]]  # as execvp(3) does
            os.execve(_SHELL, script, environment)  # noqa: S606
    except OSError as error:
        code = _NOT_FOUND if error.errno == errno.ENOENT else _NOT_STARTED
        return _complain(f"{os.fsdecode(command[0])}: {error.strerror}", code)


def _tell_unpointed(name: str, reason: str) -> None:
    _complain(f"{name}: started as it is: {reason}")


def _complain(problem: str, code: int = 0) -> int:
    try:
        print(f"holdover: {printable(problem)}", file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = None  # nobody reads it
    return code
