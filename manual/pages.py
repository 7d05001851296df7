# SPDX-License-Identifier: Apache-2.0
"""The manual pages: prose from *.in beside this file, the rest from the code's own definitions.

A line of the prose that begins with "@" is replaced:

    @version        the page's title line, with the version
    @command NAME   how a command is called, and what it does; more about it may follow
    @options NAME   its own options and its arguments
    @common         the options that every command has
    @states         what the states of a process mean
    @deliveries     what the deliveries are
    @settings       every setting of holdover.toml

Source of the markup: man(7), groff_man(7).
"""

import json
import re
import textwrap
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from holdover import __version__, kinds
from holdover.config import SETTINGS, Config, Setting
from manual.commands import COMMON, UNSEEN, Argument, Command, Option, commands

__all__ = ["holdover_8", "holdover_toml_5", "expand"]

DATE = "2026-11-25"
"""Of the last change of what the pages say."""
KINDS: dict[Callable[[object], Any], str] = {
    kinds.parse_seconds: "time",
    kinds.parse_some_seconds: "time",
    kinds.parse_bytes: "size",
    kinds.parse_switch: "switch",
    kinds.parse_path: "path",
    kinds.parse_words: "list",
    kinds.parse_address: "address",
    kinds.parse_addresses: "addresses",
}


def holdover_8() -> str:
    return expand((Path(__file__).parent / "holdover.8.in").read_text())


def holdover_toml_5() -> str:
    return expand((Path(__file__).parent / "holdover.toml.5.in").read_text())


def expand(template: str) -> str:
    """Raises `KeyError` for a line that asks for what there is not."""
    return "".join(f"{line}\n" for given in template.splitlines() for line in _expanded(given))


def _expanded(line: str) -> Iterator[str]:
    if not line.startswith("@"):
        yield line
        return
    word, _, rest = line[1:].partition(" ")
    yield from _BUILDERS[word](rest)


# -- roff ------------------------------------------------------------------------------------------


def text(plain: str) -> str:
    """Plain text as roff: `words in backquotes` are bold."""
    escaped = re.sub(r"[\\'-]", lambda m: {"\\": "\\e", "'": "\\(aq", "-": "\\-"}[m[0]], plain)
    return re.sub(r"`([^`]*)`", r"\\fB\1\\fR", escaped)


def sentence(words: str) -> str:
    return text(words[:1].upper() + words[1:].rstrip(".") + ".")


def bold(words: str) -> str:
    return f"\\fB{text(words)}\\fR"


def italic(words: str) -> str:
    return f"\\fI{text(words)}\\fR"


def _tagged(tag: str, body: str) -> Iterator[str]:
    yield from (".TP", tag, *_lines(body))


def _lines(words: str) -> list[str]:
    """Text in lines that are not too long; one that looks like a command is none."""
    return [f"\\&{line}" if line[0] in ".'" else line for line in textwrap.wrap(words, 79)]


# -- commands --------------------------------------------------------------------------------------


def _version(title: str) -> Iterator[str]:
    name, section = title.split()
    yield '.\\" Written by `make generated`: change manual/*.in, or the code.'
    yield f'.TH {name} {section} {DATE} "holdover {__version__}" "holdover"'


def _synopsis(command: Command) -> str:
    own = [f"[{_usage(option)}]" for option in command.own]
    return " ".join([bold(command.name), *own, *map(_argument, command.arguments)])


def _usage(option: Option) -> str:
    name = bold(option.names[0])
    if option.choices:
        return f"{name} {'|'.join(map(bold, option.choices))}"
    return f"{name} {italic(option.value)}" if option.value else name


def _argument(argument: Argument) -> str:
    """[PID...]: only the name is what people replace."""
    return text(str(argument)).replace(argument.name, italic(argument.name))


def _command(name: str) -> Iterator[str]:
    command = _find(name)
    yield from _tagged(_synopsis(command), sentence(command.help))


def _options(name: str) -> Iterator[str]:
    command = _find(name)
    told = [(_names(option), option.help) for option in command.own]
    told += [(italic(argument.name), argument.help) for argument in command.arguments]
    if any(help for _, help in told):
        yield ".RS"
        for tag, help in told:
            if help:
                yield from _tagged(tag, sentence(help))
        yield ".RE"


def _find(name: str) -> Command:
    """Raises `KeyError` if there is no such command."""
    return {command.name: command for command in commands()}[name]


def _names(option: Option) -> str:
    value = f" {italic(option.value)}" if option.value and not option.choices else ""
    choices = f" {'|'.join(map(bold, option.choices))}" if option.choices else ""
    return ", ".join(bold(name) for name in option.names) + value + choices


def _common(_: str) -> Iterator[str]:
    some = next(command for command in commands() if command.name not in UNSEEN)
    for key in COMMON:
        option = next(found for found in some.options if found.key == key)
        yield from _tagged(_names(option), sentence(option.help))


# -- words of the model ----------------------------------------------------------------------------


def _words(definition: str) -> Iterator[str]:
    schema = json.loads((files("holdover") / "schemas/status.json").read_text())
    for word in schema["$defs"][definition]["oneOf"]:
        yield from _tagged(bold(word["const"]), text(word["description"]))


# -- settings --------------------------------------------------------------------------------------


def _settings(_: str) -> Iterator[str]:
    for setting in SETTINGS:
        tag = f"{bold(setting.key)} ({KINDS[setting.parse]})"
        yield from _tagged(tag, sentence(setting.help))
        yield ".br"
        yield from _lines(_more(setting))


def _more(setting: Setting) -> str:
    words = f"Words: {', '.join(map(bold, setting.choices))}. " if setting.choices else ""
    flag = f" Option: {bold(setting.flag)}." if setting.flag else ""
    default = f"Default: {bold(_default(setting))}."
    return f"{words}{default} Variable: {bold(setting.variable)}.{flag}"


def _default(setting: Setting) -> str:
    """As it would be written in the file; a time with the unit that people would choose."""
    value = getattr(Config(), setting.attribute)
    if setting.parse in (kinds.parse_seconds, kinds.parse_some_seconds):
        units = {"d": 86400, "h": 3600, "min": 60, "s": 1}
        unit = next(name for name, size in units.items() if value % size == 0)
        return f'"{value / units[unit]:g} {unit}"' if value else "0"
    return kinds.show(value)


_BUILDERS: dict[str, Callable[[str], Iterator[str]]] = {
    "version": _version,
    "command": _command,
    "options": _options,
    "common": _common,
    "states": lambda _: _words("state"),
    "deliveries": lambda _: _words("delivery"),
    "settings": _settings,
}
