# SPDX-License-Identifier: Apache-2.0
"""From the configuration to a `Holdover` that keeps to it."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from holdover.cli.text import printable
from holdover.config import COMMAND_LINE, SETTINGS, Config, load_config
from holdover.errors import UsageError
from holdover.model import Delivery
from holdover.programs import Program, load_programs, own_programs

if TYPE_CHECKING:
    from holdover.flow import Holdover

__all__ = ["read_config", "make_holdover", "make_programs", "program_problems"]


def read_config(options: Namespace) -> Config:
    """The configuration of a command; what is wrong with it goes to stderr.

    Raises `UsageError` for what is wrong on the command line itself.
    """
    flags = {s.key: getattr(options, s.key, None) for s in SETTINGS if s.flag}
    words = [f"{key}={value}" for key, value in flags.items() if value is not None]
    config = load_config([*options.setting, *words])
    for problem in program_problems(config):
        print(f"holdover: {printable(problem)}", file=sys.stderr)
    for problem in config.problems:
        if problem.startswith(f"{COMMAND_LINE}: "):
            raise UsageError(problem, hint="`holdover doctor` shows all settings")
        print(f"holdover: {printable(problem)}", file=sys.stderr)
    return config


def program_problems(config: Config) -> Iterator[str]:
    """What is wrong with the operator's definitions, and the names of programs to leave alone."""
    yield from own_programs()[1]
    if config.programs_disabled:
        known = {program.name for program in load_programs()}
        for name in config.programs_disabled:
            if name not in known:
                origin = config.origin("programs.disabled")
                yield f"{origin}: programs.disabled names {name!r}, which is not known"


def make_holdover(config: Config, **more: Any) -> "Holdover":
    """`more` are fields of `Holdover` that the command itself decides."""
    from holdover.flow import Holdover
    from holdover.store import Store

    store = Store(config.store_objects, config.store_state, budget=config.store_budget)
    values: dict[str, Any] = {
        "store": store,
        "disabled": config.programs_disabled,
        "deliveries": tuple(Delivery(name) for name in config.deliveries),
        "lock_timeout": config.lock_timeout,
        "patience": config.look_budget,
        "pin_lifetime": config.pins_lifetime,
    }
    return Holdover(**values | more)


def make_programs(config: Config) -> tuple[Program, ...]:
    """Definitions of those that are not to be left alone; what they do concerns no hook."""
    disabled = config.programs_disabled
    return tuple(program for program in load_programs() if program.name not in disabled)
