# SPDX-License-Identifier: Apache-2.0
"""`holdover disable --release`: what a package runs before it is removed.

Whoever can do without holdover is released, and what nobody needs goes. What stays is named, with
the reason, the bytes, and what will remove it.
"""

import shlex
from argparse import Namespace
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdover.cli.leftovers import BootCleanup, doomed
from holdover.cli.output import human_bytes, print_json
from holdover.cli.setup import make_holdover, read_config
from holdover.cli.text import printable
from holdover.cli.transactions import marked
from holdover.errors import ProcessError
from holdover.flow import Holdover
from holdover.identity import ProcessId
from holdover.leaving import Departure, leave
from holdover.packages.guard import MARKER
from holdover.procfs import ProcFs

__all__ = ["release_all", "let_go", "tell", "Farewell"]


@dataclass(frozen=True, slots=True)
class Farewell:
    """What became of everybody, and of what stays."""

    departure: Departure
    doomed: tuple[Path, ...]
    """What may be removed once those processes have ended that need it now."""
    at_boot: bool
    """The next boot does it."""


def release_all(options: Namespace, hooks: list[tuple[Path, str]]) -> int:
    """Let go, and print it together with what was done to the hook files."""
    farewell = let_go(make_holdover(read_config(options)))
    if options.json:
        files = [{"path": str(path), "change": change} for path, change in hooks]
        print_json({"schema": "holdover.farewell/1", "files": files} | _json(farewell))
    else:
        for path, change in hooks:
            print(f"{path}: {change}")
        for line in tell(farewell):
            print(f"holdover: {printable(line)}")
    return 1 if farewell.departure.problem else 0


def let_go(
    holdover: Holdover, marker: Path = MARKER, cleanup: BootCleanup | None = None
) -> Farewell:
    """Leave the machine, and have the next boot remove what has to stay until then.

    The marker goes: the line that the package manager runs at its end would see it, and complain
    that holdover is not there.
    """
    cleanup = cleanup or BootCleanup()
    transactions = marked(marker)
    touching = [_may_touch_guests(holdover.proc, each) for each in transactions or (None,)]
    under_way = marker.exists() and any(touching)
    departure = leave(holdover, transactions=transactions, under_way=under_way)
    marker.unlink(missing_ok=True)
    needed = [left.id for left in departure.left if not left.pinned]
    paths = doomed(holdover.store, needed, others=len(needed) < len(departure.left))
    if needed and cleanup.write(paths):
        return Farewell(departure, tuple(paths), at_boot=True)
    cleanup.forget()
    return Farewell(departure, tuple(paths if needed else ()), at_boot=False)


def _may_touch_guests(proc: ProcFs, transaction: ProcessId | None) -> bool:
    """Whether a transaction goes on that may do more than remove holdover.

    `dpkg --remove holdover` does not say what it removes, and so everybody was protected before.
    """
    if transaction is None:
        return True
    if not proc.is_alive(transaction):
        return False
    with suppress(ProcessError):
        words = proc.read(transaction.pid, "cmdline").split("\0")[1:]
        removing = {"-r", "--remove", "-P", "--purge", "-e", "--erase"} & set(words)
        return not removing or {word for word in words if word[:1] not in ("", "-")} != {"holdover"}
    return True


def tell(farewell: Farewell) -> list[str]:
    """What an operator should know, one line each."""
    departure, lines = farewell.departure, []
    if departure.released:
        names = _names((process.name, process.id.pid) for process in departure.released)
        lines.append(f"released {len(departure.released)}: {names}")
    for kept in departure.kept:
        name = _names([(kept.process.name, kept.process.id.pid)])
        lines.append(f"{name} is not released: {kept.reason}")
    for left in departure.left:
        why = _names(left.users) or ("nobody: it is pinned" if left.pinned else "nobody known")
        lines.append(f"{left.holding.view} stays, for {why}")
    if departure.problem:
        lines.append(f"it cannot be told what nobody needs: {departure.problem}")
    if farewell.doomed:
        boot = "they go at the next boot, or" if farewell.at_boot else "nothing will remove them;"
        command = shlex.join(["rm", "-r", *map(str, farewell.doomed)])
        size = human_bytes(departure.bytes_left)
        lines.append(f"{size} stay on disk; {boot} when these processes have ended: {command}")
    return lines


def _names(users: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name or 'a guest'} ({pid})" for name, pid in users)


def _json(farewell: Farewell) -> dict[str, object]:
    departure = farewell.departure
    return {
        "released": [{"pid": p.id.pid, "name": p.name} for p in departure.released],
        "kept": [
            {"pid": k.process.id.pid, "name": k.process.name, "reason": k.reason}
            for k in departure.kept
        ],
        "left": [
            {
                "id": left.id,
                "pinned": left.pinned,
                "users": [{"pid": pid, "name": name} for name, pid in left.users],
            }
            for left in departure.left
        ],
        "bytes_left": departure.bytes_left,
        "doomed": [str(path) for path in farewell.doomed],
        "removed_at_boot": farewell.at_boot,
        "problem": departure.problem,
    }
