# SPDX-License-Identifier: Apache-2.0
"""The command line as data: what argparse was told, without argparse."""

import argparse
from dataclasses import dataclass

from holdover.cli.arguments import build_parser

__all__ = ["Command", "Option", "Argument", "commands", "COMMON", "UNSEEN"]

COMMON = ("help", "json", "setting")
"""Options that every command has; the manual explains them once."""
UNSEEN = ("hook",)
"""What programs call, and nobody types."""


@dataclass(frozen=True, slots=True)
class Option:
    names: tuple[str, ...]
    """The short one first: -v, --verbose."""
    value: str
    """What its value is called; "" if it takes none."""
    choices: tuple[str, ...]
    help: str
    key: str


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    """As people see it: PID, MODULE."""
    many: bool
    needed: bool
    help: str

    def __str__(self) -> str:
        dots = f"{self.name}..." if self.many else self.name
        return dots if self.needed else f"[{dots}]"


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]

    @property
    def own(self) -> tuple[Option, ...]:
        """Options that not every command has."""
        return tuple(option for option in self.options if option.key not in COMMON)


def commands() -> tuple[Command, ...]:
    """All, as `holdover --help` orders them."""
    (chosen,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    helps = {action.dest: action.help or "" for action in chosen._choices_actions}
    return tuple(
        Command(
            name,
            helps[name],
            tuple(_option(action) for action in parser._actions if action.option_strings),
            tuple(_argument(action) for action in parser._actions if not action.option_strings),
        )
        for name, parser in chosen.choices.items()
    )


def _option(action: argparse.Action) -> Option:
    value = "" if action.nargs == 0 else str(action.metavar or action.dest).upper()
    choices = tuple(map(str, action.choices or ()))
    return Option(tuple(action.option_strings), value, choices, action.help or "", action.dest)


def _argument(action: argparse.Action) -> Argument:
    name = str(action.metavar or action.dest).upper()
    many, needed = action.nargs in ("*", "+"), action.nargs in (None, "+")
    return Argument(name, many, needed, action.help or "")
