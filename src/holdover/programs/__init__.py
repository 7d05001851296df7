# SPDX-License-Identifier: Apache-2.0
"""Program definitions: what holdover knows about each kind of program, as data.

The grammar is described at the head of qemu.toml.
"""

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdover.complaints import Log, Poison
from holdover.errors import MalformedError
from holdover.model import Delivery
from holdover.trust import distrust

__all__ = ["Program", "Fallback", "Preload", "Trial", "Variable", "load_programs", "parse_program"]
__all__ += ["OWN", "our_programs", "own_programs"]

SCHEMA = "holdover.program/1"
OWN = Path("/etc/holdover/programs")
"""Where the operator puts definitions."""
_OURS = Path(__file__).parent
STAMPED = ("symbols", "data")
"""Where a module carries the stamp: as the name of a symbol, or among its constants."""
KINDS = ("array", "pointer")
_KEYS = (
    *("schema", "name", "executable", "installed", "packages", "deliveries", "environment"),
    *("variable", "guest", "workers", "complaint", "poison", "log", "build", "fallback"),
    *("rehearse", "preload"),
)
_KEYS_OF_BUILD = (
    *("stamp", "stamp_in", "exact", "strict", "by_file", "version", "directory", "modules"),
    *("asked", "beside", "in_place"),
)
_NEEDS = {
    Delivery.RUN: "environment",
    Delivery.ENVIRONMENT: "environment",
    Delivery.VARIABLE: "variable",
}
_NOTHING = "(?!)()"
_POINTER_SIZE, _MAX_SIZE = 8, 1 << 16  # bytes
_MAX_TEXT, _MAX_LINE = 1 << 16, 4096  # characters: a key of many thousand parts takes minutes
_SENSELESS = (
    KeyError,
    AttributeError,
    TypeError,
    ValueError,
    OverflowError,
    RecursionError,
    re.error,
)


@dataclass(frozen=True, slots=True)
class Trial:
    """A run that loads modules and ends by itself; each kind of executable has its arguments."""

    arguments: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]
    input: str
    """What it reads from stdin."""

    def arguments_of(self, executable: str) -> tuple[str, ...] | None:
        """For an executable of this file name; None if the run is not for it."""
        return next((words for name, words in self.arguments if name.fullmatch(executable)), None)


@dataclass(frozen=True, slots=True)
class Fallback:
    """Where builds look last that go on after a module that they could not load."""

    goes_on: re.Pattern[bytes]
    version: re.Pattern[str]
    directory: re.Pattern[bytes]
    replaced: re.Pattern[str]

    def of(self, version: str, constants: bytes) -> Path | None:
        """The directory of the build that says this about itself; None if it has none."""
        name, directory = self.version.fullmatch(version), self.directory.search(constants)
        if not (name and directory and self.goes_on.search(constants)):
            return None
        if b"%s\0" % name["name"].encode() not in constants:
            return None  # it is called otherwise where the directory is made up
        return Path(directory[1].decode()) / self.replaced.sub("_", name["name"])


@dataclass(frozen=True, slots=True)
class Preload:
    """A QMP command that makes a process load modules, and changes nothing."""

    loads: re.Pattern[str]
    """Names of the modules."""
    text: str
    undo: str
    """The command that takes back what it did if it did not fail; "" if it may succeed."""


@dataclass(frozen=True, slots=True)
class Variable:
    """Where the executable keeps the name of its module directory while it runs."""

    symbol: str
    pointer: bool
    """It points to the name; else the name is in it."""
    size: int
    """Bytes."""
    value: re.Pattern[bytes]
    """What the name looks like."""


@dataclass(frozen=True, slots=True)
class Program:
    """One definition; the regular expressions are described in qemu.toml."""

    name: str
    executable: re.Pattern[str]
    installed: tuple[str, ...]
    packages: tuple[str, ...]
    deliveries: tuple[Delivery, ...]
    environment: str
    """The environment variable that it reads; "" if there is none."""
    variable: Variable | None
    guest: re.Pattern[bytes]
    workers: bool
    stamp: re.Pattern[bytes]
    stamp_in: str
    """One of `STAMPED`."""
    exact: bool
    strict: bool
    by_file: bool
    version: re.Pattern[bytes]
    directory: re.Pattern[bytes]
    modules: re.Pattern[bytes] | None
    asked: tuple[str, ...]
    beside: tuple[str, ...]
    in_place: tuple[str, ...]
    fallback: Fallback | None
    complaint: re.Pattern[str]
    poison: Poison | None
    """None if no failed load does it any harm."""
    logs: tuple[Log, ...]
    rehearse: tuple[Trial, ...]
    preload: tuple[Preload, ...]

    def runs(self, executable: str) -> bool:
        """Whether an executable with this path may be an instance."""
        return self.executable.fullmatch(executable.rpartition("/")[2]) is not None

    def is_module(self, name: str) -> bool:
        """Whether a file `name`.so may be one of its modules, as far as its name tells."""
        if self.modules is None:
            return True
        return self.modules.fullmatch(b"\0%s\0" % name.encode("utf-8", "replace")) is not None

    def guest_name(self, command_line: bytes) -> str:
        """What people call the process, or ""."""
        found = self.guest.search(command_line)
        raw = next((group for group in found.groups() if group), b"") if found else b""
        return raw.decode("utf-8", "replace")


def load_programs(own: Path = OWN) -> tuple[Program, ...]:
    """All definitions, by name: those that come with holdover, and the operator's `own`.

    One of his takes the place of ours of the same name; what is wrong with one is told elsewhere.
    """
    found = {program.name: program for program in (*our_programs(), *own_programs(own)[0])}
    return tuple(found[name] for name in sorted(found))


def our_programs() -> tuple[Program, ...]:
    """The definitions that come with holdover."""
    return tuple(parse_program(path.read_text()) for path in sorted(_OURS.glob("*.toml")))


def own_programs(directory: Path = OWN) -> tuple[tuple[Program, ...], tuple[str, ...]]:
    """The operator's definitions, and what is wrong with those that are left out."""
    found, problems = list[Program](), list[str]()
    for path in sorted(directory.glob("*.toml")):
        try:
            if problem := distrust(path):
                raise MalformedError(problem)
            found.append(parse_program(path.read_text()))
        except (MalformedError, OSError, UnicodeDecodeError) as error:
            problems.append(f"{path} is left out: {error}")
    return tuple(found), tuple(problems)


def parse_program(text: str) -> Program:
    """Parse one definition; raises `MalformedError` that names what is wrong with it."""
    if len(text) > _MAX_TEXT or any(len(line) > _MAX_LINE for line in text.split("\n")):
        raise MalformedError("a program definition, or a line of it, has no end")
    try:
        data: dict[str, Any] = tomllib.loads(text)
        build = _build_of(data)
        return Program(
            name=_text(data["name"]),
            executable=_executable(data["executable"]),
            installed=_texts(data["installed"]),
            packages=_texts(data["packages"]),
            deliveries=_deliveries(data),
            environment=_text(data["environment"]) if "environment" in data else "",
            variable=_variable(data["variable"]) if "variable" in data else None,
            guest=_pattern(data["guest"], groups=1),
            workers=_switch(data.get("workers", False)),
            stamp=_pattern(build["stamp"]),
            stamp_in=_one_of(STAMPED, build.get("stamp_in", STAMPED[0])),
            exact=_switch(build.get("exact", True)),
            strict=_strict(build),
            by_file=_switch(build.get("by_file", False)),
            version=_pattern(build["version"], groups=1),
            directory=_pattern(build["directory"], groups=1),
            modules=_pattern(build["modules"], groups=1) if "modules" in build else None,
            asked=_texts(build.get("asked", [])),
            beside=tuple(map(_below, _texts(build.get("beside", [])))),
            in_place=_in_place(data),
            fallback=_fallback(data["fallback"]) if "fallback" in data else None,
            complaint=_text_pattern(data.get("complaint", _NOTHING), groups=1),
            poison=_poison(data["poison"]) if "poison" in data else None,
            logs=tuple(map(_log, data.get("log", []))),
            rehearse=_trials(data.get("rehearse", [])),
            preload=tuple(map(_preload, data.get("preload", []))),
        )
    except _SENSELESS as error:
        raise MalformedError(f"a program definition makes no sense: {_told(error)}") from error


def _told(error: Exception) -> str:
    """Whatever Python calls it."""
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error) or repr(error)


def _build_of(data: dict[str, Any]) -> dict[str, Any]:
    """Raises `MalformedError` or `ValueError` if it is of another schema, or has keys of none."""
    if data["schema"] != SCHEMA:
        raise MalformedError(f"a program definition of schema {data['schema']!r}")
    build: dict[str, Any] = data["build"]
    _check_keys("it", data, _KEYS)
    _check_keys("[build]", build, _KEYS_OF_BUILD)
    return build


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(_text(entry) for entry in value)


def _executable(value: object) -> re.Pattern[str]:
    if "/" in _text(value):
        raise ValueError(f"{value!r}: an executable is told by its file name, without a directory")
    return _text_pattern(value)


def _pattern(value: object, *, groups: int = 0) -> re.Pattern[bytes]:
    _text_pattern(value, groups=groups)
    return re.compile(_text(value).encode())


def _text_pattern(value: object, *, groups: int = 0) -> re.Pattern[str]:
    try:
        pattern = re.compile(_text(value))
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from error
    if pattern.groups < groups:
        raise ValueError(f"{value!r} has no group")
    return pattern


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _one_of(choices: tuple[str, ...], value: object) -> str:
    if value not in choices:
        raise ValueError(f"{value!r} is none of {', '.join(choices)}")
    return str(value)


def _check_keys(what: str, table: dict[str, Any], known: tuple[str, ...]) -> None:
    if unknown := table.keys() - set(known):
        raise ValueError(f"{what} has a key that is not known, {min(unknown)!r}")


def _deliveries(data: dict[str, Any]) -> tuple[Delivery, ...]:
    known = tuple(map(str, Delivery))
    found = tuple(Delivery(_one_of(known, name)) for name in _texts(data["deliveries"]))
    for delivery in found:
        if (key := _NEEDS.get(delivery)) and key not in data:
            raise ValueError(f"the delivery {delivery} is nothing without {key!r}")
    if "rehearse" in data and not {"environment", "complaint"} <= data.keys():
        raise ValueError("a rehearsal is nothing without 'environment' and 'complaint'")
    return found


def _variable(table: dict[str, Any]) -> Variable:
    _check_keys("[variable]", table, ("symbol", "kind", "size", "value"))
    pointer = _one_of(KINDS, table["kind"]) == "pointer"
    size = _POINTER_SIZE if pointer else table["size"]
    if not isinstance(size, int) or (not 2 * _POINTER_SIZE <= size <= _MAX_SIZE and not pointer):
        raise ValueError(f"{size!r} is no size of an array")
    return Variable(_text(table["symbol"]), pointer, size, _pattern(table["value"]))


def _strict(build: dict[str, Any]) -> bool:
    strict = _switch(build.get("strict", False))
    if strict and build.get("exact", True):
        raise ValueError("'strict' is nothing unless 'exact' is false")
    return strict


def _in_place(data: dict[str, Any]) -> tuple[str, ...]:
    """A view that covers the directory would lead back to itself."""
    names = tuple(map(_below, _texts(data["build"].get("in_place", []))))
    if any("/" in name for name in names):
        raise ValueError("'in_place' is for what lies right in the directory")
    if names and set(_deliveries(data)) & {Delivery.MOUNT, Delivery.FALLBACK}:
        raise ValueError("'in_place' is not for the deliveries mount and fallback-dir")
    return names


def _below(pattern: str) -> str:
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise ValueError(f"{pattern!r} is not below a directory")
    return pattern


def _poison(entry: dict[str, Any]) -> Poison:
    since = tuple(int(number) for number in _text(entry["since"]).split("."))
    return Poison(since, _pattern(entry["message"], groups=1))


def _log(entry: dict[str, Any]) -> Log:
    path = _text(entry["path"])
    if not re.fullmatch(r"/[^{}]*\{\}[^{}]*", path):
        raise ValueError(f"{path!r} names no log")
    return Log(path, _pattern(entry["begins"], groups=1))


def _fallback(table: dict[str, Any]) -> Fallback:
    version = _text_pattern(table["version"])
    if "name" not in version.groupindex:
        raise ValueError(f"{version.pattern!r} has no group of that name")
    return Fallback(
        goes_on=_pattern(table["goes_on"]),
        version=version,
        directory=_pattern(table["directory"], groups=1),
        replaced=_text_pattern(table["replaced"]),
    )


def _trials(value: object) -> tuple[Trial, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list of rehearsals")
    return tuple(_trial(entry) for entry in value)


def _trial(entry: dict[str, Any]) -> Trial:
    unknown = entry.keys() - {"arguments", "input"}
    if unknown:
        raise ValueError(f"a rehearsal has no {sorted(unknown)[0]!r}")
    arguments = ((_text_pattern(key), _texts(words)) for key, words in entry["arguments"].items())
    return Trial(tuple(arguments), _text(entry["input"]) if "input" in entry else "")


def _preload(entry: dict[str, Any]) -> Preload:
    unknown = entry.keys() - {"loads", "command", "undo"}
    if unknown:
        raise ValueError(f"a preload has no {sorted(unknown)[0]!r}")
    undo = _command(entry["undo"]) if "undo" in entry else ""
    return Preload(_text_pattern(entry["loads"]), _command(entry["command"]), undo)


def _command(value: object) -> str:
    """Raises `ValueError` unless it is JSON; QMP knows no other keys than these."""
    command = json.loads(_text(value))
    if not isinstance(command, dict) or command.keys() | {"arguments"} != {"execute", "arguments"}:
        raise ValueError(f"{value!r} is no command")
    return _text(value)
