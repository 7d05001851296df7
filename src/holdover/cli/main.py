# SPDX-License-Identifier: Apache-2.0
"""`holdover`: the arguments, and which command serves them."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from holdover import __version__
from holdover.errors import HoldoverError

__all__ = ["main", "build_parser"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    os.umask(0o022)  # what we make is for root to write and for guests to read
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["hook"]:
        from holdover.cli.hooks import run_hook  # inside a transaction nothing else is loaded

        return run_hook(words[1:])
    return _run(build_parser().parse_args(words))


def _run(options: argparse.Namespace) -> int:
    from holdover.cli import commands

    for ending in (signal.SIGTERM, signal.SIGHUP):  # clean up as after Ctrl-C
        signal.signal(ending, signal.default_int_handler)
    try:
        code: int = getattr(commands, f"run_{options.command}")(options)
        return code
    except HoldoverError as error:
        print(f"holdover: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"holdover: {error.hint}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has seen enough
        return 0
    except KeyboardInterrupt:
        print("holdover: interrupted; nothing is half done", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(
        prog="holdover",
        description="Keep late loading working in processes that outlive their package.",
    )
    parser.add_argument("--version", action="version", version=f"holdover {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.add_argument("--json", action="store_true", help="print JSON instead of a table")
        return added

    status = command("status", "show every process that loads late, and whether it still can")
    status.add_argument("pid", nargs="*", type=_pid, help="only these processes")
    status.add_argument("-v", "--verbose", action="store_true", help="show each module as well")

    protect = command("protect", "hold the modules of live processes, and make these find them")
    protect.add_argument("pid", nargs="*", type=_pid, help="only these processes")
    protect.add_argument("--dry-run", action="store_true", help="say what would be done, and why")
    protect.add_argument("--delivery", choices=["environment", "mount"], help="use only this one")

    release = command("release", "take a delivery back")
    release.add_argument("pid", type=_pid)
    release.add_argument("--force", action="store_true", help="even if a late load may kill it")

    defuse = command("defuse", "make a process that cannot be protected refuse late loads and live")
    defuse.add_argument("pid", nargs="+", type=_pid)
    defuse.add_argument("--dry-run", action="store_true", help="say what would be done, and why")

    command("list", "show what is held, for whom, and how many bytes only that keeps")
    show = command("show", "show one snapshot, file by file, and read it all to verify it")
    show.add_argument("id", help="as `holdover list` shows it; a unique beginning is enough")

    gc = command("gc", "remove what no live process needs")
    gc.add_argument("--dry-run", action="store_true", help="say what would go")

    command("doctor", "try what holdover needs on this machine, and say what to change")
    command("enable", "install the package manager hooks")
    command("disable", "remove the package manager hooks")
    demo = command("demo", "tell the whole story on throwaway guests in a throwaway root")
    demo.add_argument("--cache", help="where to keep the throwaway root's packages between runs")
    commands.add_parser("hook", help="what package managers call; see `holdover enable`")
    return parser


def _pid(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no process number")
    return int(text)
