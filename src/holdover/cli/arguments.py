# SPDX-License-Identifier: Apache-2.0
"""The command line as `holdover --help` shows it; `module` is the file that serves a command."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from holdover import __version__
from holdover.config import SETTINGS

__all__ = ["parse_arguments", "build_parser"]

Commands = Any  # argparse does not name the type of what add_subparsers() returns


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Options may stand anywhere: `explain 4711 -v block-rbd`.

    argparse gives a list all words up to the first option behind it, and leaves the rest over.
    """
    parser = build_parser()
    options, left = parser.parse_known_args(words)
    name, kind = getattr(options, "more", ("", str))
    if left and (not name or any(word.startswith("-") for word in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    try:
        more = [kind(word) for word in left]
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    if more:
        setattr(options, name, getattr(options, name) + more)
    return options


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(
        prog="holdover",
        description="Keep late loading working in processes that outlive their package.",
    )
    parser.add_argument("--version", action="version", version=f"holdover {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_looking(commands)
    _add_protecting(commands)
    _add_healing(commands)
    _add_snapshots(commands)
    _add_machine(commands)
    _add_run(commands)
    commands.add_parser("hook", help="what package managers call; see `holdover enable`")
    return parser


def _add(commands: Commands, module: str, name: str, text: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + "."
    )
    added.add_argument("--json", action="store_true", help="print JSON instead of a table")
    text = "change a setting for this once, see holdover.toml(5)"
    added.add_argument(
        "-o", dest="setting", action="append", default=[], metavar="KEY=VALUE", help=text
    )
    added.set_defaults(module=module)
    return added


def _add_run(commands: Commands) -> None:
    """It answers nothing; `main` takes its words as they come, and asks here for help only."""
    text = "start a program that is protected without being written to"
    run = commands.add_parser("run", help=text, description=text[0].upper() + text[1:] + ".")
    text = "change a setting for this once, see holdover.toml(5)"
    run.add_argument(
        "-o", dest="setting", action="append", default=[], metavar="KEY=VALUE", help=text
    )
    text = "the program and its arguments; before it may stand --"
    run.add_argument("words", nargs="+", metavar="CMD", help=text)
    run.set_defaults(module="running")


def _add_list(
    command: argparse.ArgumentParser,
    name: str,
    kind: Callable[[str], object],
    nargs: str = "*",
    **more: str,
) -> None:
    command.add_argument(name, nargs=nargs, type=kind, **more)  # type: ignore[arg-type]
    command.set_defaults(more=(name, kind))


def _add_flag(command: argparse.ArgumentParser, key: str) -> None:
    """The option for a setting; all that is to be said about it is in the table."""
    setting = next(s for s in SETTINGS if s.key == key)
    choices, text = setting.choices or None, f"only this one; overrides the setting {key}"
    command.add_argument(setting.flag, dest=key, choices=choices, help=text)


def _add_looking(commands: Commands) -> None:
    text = "show every process that loads late, and whether it still can"
    status = _add(commands, "status", "status", text)
    _add_list(status, "pid", _pid, help="only these processes")
    status.add_argument("-v", "--verbose", action="store_true", help="show each module as well")

    text = "say whether a module would load in a process, and why not"
    explain = _add(commands, "explain", "explain", text)
    explain.add_argument("pid", type=_pid)
    _add_list(explain, "name", str, metavar="MODULE", help="only these modules")
    explain.add_argument("-v", "--verbose", action="store_true", help="show the linker's way")

    text = "show what the pending upgrade would break, and what would be held; changes nothing"
    preview = _add(commands, "preview", "preview", text)
    words = "what would be asked of apt-get; otherwise dist-upgrade"
    _add_list(preview, "apt", str, metavar="APT-GET-WORD", help=words)
    preview.add_argument("-v", "--verbose", action="store_true", help="show each module as well")


def _add_protecting(commands: Commands) -> None:
    text = "hold the modules of live processes, and make these find them"
    protect = _add(commands, "protect", "protect", text)
    _add_list(protect, "pid", _pid, help="only these processes")
    how = protect.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="say what would be done, and why")
    text = "deliver only what loads in a scratch process, see `holdover rehearse`"
    how.add_argument("--rehearse", action="store_true", help=text)
    _add_flag(protect, "deliveries")

    text = "late-load what is held for a process in a scratch process, to see that it works"
    rehearse = _add(commands, "rehearse", "rehearse", text)
    rehearse.add_argument("pid", type=_pid)

    release = _add(commands, "protect", "release", "take a delivery back")
    release.add_argument("pid", type=_pid)
    release.add_argument("--force", action="store_true", help="even if a late load may kill it")


def _add_healing(commands: Commands) -> None:
    text = "make a process that cannot be protected refuse late loads and live"
    defuse = _add(commands, "protect", "defuse", text)
    _add_list(defuse, "pid", _pid, nargs="+")
    defuse.add_argument("--dry-run", action="store_true", help="say what would be done, and why")

    text = "get back the modules of processes that were upgraded unprotected, and protect them"
    rescue = _add(commands, "rescue", "rescue", text)
    _add_list(rescue, "pid", _pid, help="only these processes")
    rescue.add_argument("--all", action="store_true", help="all that need it")
    text = "take package files from this directory, and download nothing"
    rescue.add_argument("--from", dest="directory", metavar="DIR", type=Path, help=text)
    text = "deliver what was got without a rehearsal, see `holdover rehearse`"
    rescue.add_argument("--no-rehearsal", action="store_true", help=text)
    text = "show each module and each package as well"
    rescue.add_argument("-v", "--verbose", action="store_true", help=text)


def _add_snapshots(commands: Commands) -> None:
    text = "show what is held, for whom, and how many bytes only that keeps"
    listing = _add(commands, "snapshots", "list", text)
    text = "also name each held file that a package has replaced since"
    listing.add_argument("-v", "--verbose", action="store_true", help=text)
    text = "show one snapshot, file by file, and read it all to verify it"
    show = _add(commands, "snapshots", "show", text)
    show.add_argument("id", help="as `holdover list` shows it; a unique beginning is enough")
    for name, text in (
        ("pin", "keep a snapshot, whether it is needed or not"),
        ("unpin", "let a snapshot go once nobody needs it"),
    ):
        pin = _add(commands, "snapshots", name, text)
        pin.add_argument("id", help="as `holdover list` shows it; a unique beginning is enough")
    gc = _add(commands, "snapshots", "gc", "remove what no live process needs")
    gc.add_argument("--dry-run", action="store_true", help="say what would go")


def _add_machine(commands: Commands) -> None:
    text = "try what holdover needs on this machine, and say what to change"
    _add(commands, "machine", "doctor", text)
    enable = _add(commands, "machine", "enable", "install the package manager hooks")
    text = "only bring up to date what is enabled already"
    enable.add_argument("--refresh", action="store_true", help=text)
    disable = _add(commands, "machine", "disable", "remove the package manager hooks")
    text = "and let go of every process that can do without holdover, and of what is held for it"
    disable.add_argument("--release", action="store_true", help=text)
    text = "tell the whole story on throwaway guests in a throwaway root"
    demo = _add(commands, "machine", "demo", text)
    demo.add_argument("--cache", help="where to keep the throwaway root's packages between runs")


def _pid(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:20]) <= _PID_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no process number")
    return int(text)


_PID_MAX = 1 << 22  # PID_MAX_LIMIT of <linux/threads.h>
