# SPDX-License-Identifier: Apache-2.0
"""`holdover`: run the command that was asked for, and tell what went wrong in plain words."""

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from holdover.errors import HoldoverError

TYPE_CHECKING = False  # a hook that has nothing to do takes as long as two more such imports
if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["run"]:
        from holdover.cli.running import run_words  # as little as possible: a guest waits

        return run_words(words[1:])
    os.umask(0o022)  # what we make is for root to write and for guests to read
    if words[:1] == ["hook"]:
        from holdover.cli.glance import run_hook  # each transaction waits for it

        return run_hook(words[1:])
    from holdover.cli.arguments import parse_arguments

    return _run(parse_arguments(words))


def _run(options: "Namespace") -> int:
    from holdover.cli.text import printable

    for ending in (signal.SIGTERM, signal.SIGHUP):  # clean up as after Ctrl-C
        signal.signal(ending, signal.default_int_handler)
    try:
        module = import_module(f"holdover.cli.{options.module}")
        code: int = getattr(module, f"run_{options.command}")(options)
        return code
    except HoldoverError as error:
        print(f"holdover: {printable(error.message)}", file=sys.stderr)
        for line in error.hint.splitlines():
            print(f"holdover: {printable(line)}", file=sys.stderr)
        return error.exit_code
    except PermissionError as error:
        problem = printable(f"{error.filename}: {error.strerror}")
        print(f"holdover: {problem}; run holdover as root", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has seen enough
        return 0
    except OSError as error:  # a disk that fails, no descriptors left, ...
        name = f" ({error.filename})" if error.filename else ""
        print(f"holdover: {printable(f'{error.strerror or error}{name}')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("holdover: interrupted; nothing is half done", file=sys.stderr)
        return 130
