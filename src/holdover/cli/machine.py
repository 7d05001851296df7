# SPDX-License-Identifier: Apache-2.0
"""`holdover doctor`, `enable`, `disable` and `demo`: the machine rather than its guests."""

import sys
from argparse import Namespace
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from holdover.cli.output import print_json, print_table
from holdover.cli.setup import make_holdover, read_config
from holdover.cli.text import printable
from holdover.config import SETTINGS
from holdover.kinds import show

__all__ = ["run_doctor", "run_enable", "run_disable", "run_demo"]


def run_doctor(options: Namespace) -> int:
    from holdover.cli.doctor import examine

    config = read_config(options)
    checks = examine(make_holdover(config), config)
    settings = [
        (s.key, show(getattr(config, s.attribute)), config.origin(s.key), s.help) for s in SETTINGS
    ]
    if options.json:
        keys = ("key", "value", "origin", "help")
        entries = [dict(zip(keys, setting, strict=True)) for setting in settings]
        found = [asdict(check) for check in checks]
        print_json({"schema": "holdover.doctor/1", "checks": found, "settings": entries})
    else:
        rows = [(c.name, "ok" if c.ok else "failed", c.detail) for c in checks]
        print_table(("CHECK", "RESULT", "DETAIL"), rows)
        print()
        print_table(("SETTING", "VALUE", "FROM", "MEANS"), settings)
    return 0 if all(check.ok for check in checks) else 1


def run_enable(options: Namespace) -> int:
    from holdover.cli.enabling import enable, refresh
    from holdover.cli.installation import REMEDY, Installation
    from holdover.cli.leftovers import BootCleanup
    from holdover.cli.services import advice

    changes = refresh() if options.refresh else enable()
    if changes:
        BootCleanup().forget()
    if changes and (problem := Installation.own().problem):
        print(f"holdover: {printable(problem)}", file=sys.stderr)
        print(f"holdover: {REMEDY}", file=sys.stderr)
    for line in advice() if changes else ():
        print(f"holdover: {line}", file=sys.stderr)
    return _show_hook_change(changes, as_json=options.json)


def run_disable(options: Namespace) -> int:
    from holdover.cli.enabling import disable

    changes = disable()
    if options.release:
        from holdover.cli.leaving import release_all

        return release_all(options, changes)
    return _show_hook_change(changes, as_json=options.json)


def _show_hook_change(changes: list[tuple[Path, str]], *, as_json: bool) -> int:
    if as_json:
        entries = [{"path": str(path), "change": change} for path, change in changes]
        print_json({"schema": "holdover.hooks/1", "files": entries})
    else:
        for path, change in changes:
            print(f"{path}: {change}")
        if not changes:
            print("Nothing was enabled.")
    return 0


def run_demo(options: Namespace) -> int:
    from holdover.demo.story import tell

    # with --json the story goes to stderr, and what came of it to stdout
    with redirect_stdout(sys.stderr if options.json else sys.stdout):
        ending = tell(Path(options.cache) if options.cache else None)
    if options.json:
        print_json({"schema": "holdover.demo/1"} | asdict(ending))
    return 1 if ending.broken_promises else 0
