# SPDX-License-Identifier: Apache-2.0
"""`holdover preview`: what the pending upgrade would break, and what would be held."""

import os
import tempfile
from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from holdover.answers import Preview
from holdover.cli.output import human_bytes, print_json, print_table, process_columns, progress
from holdover.cli.setup import make_holdover, read_config
from holdover.cli.together import together
from holdover.cli.unseen import show_unreadable
from holdover.concern import names_any
from holdover.errors import UsageError
from holdover.flow import Holdover
from holdover.looking import Progress
from holdover.model import Unreadable
from holdover.packages import apt
from holdover.packages.aptlist import changed_files
from holdover.pending import PendingFiles, Replacement, plain_name
from holdover.programs import Program
from holdover.run import run

__all__ = ["run_preview"]

_MAX_LINKS = 40  # MAXSYMLINKS of <linux/namei.h>


def run_preview(options: Namespace) -> int:
    with progress(wanted=not options.json) as report, tempfile.TemporaryDirectory() as scratch:
        report("asking apt what it would do")
        simulated = run(*_simulation(options.apt or ["dist-upgrade"]))
        native = run("dpkg", "--print-architecture").stdout.strip()
        packages = apt.parse_simulation(simulated.stdout, native)
        holdover = make_holdover(read_config(options), progress=report, deep=True)
        concerned = _concerned(packages, holdover)
        pending = _pending(concerned, holdover.programs, Path(scratch), report)
        patterns = [name for program in holdover.programs for name in program.packages]
        named = names_any((p.name for p in packages), patterns)
        previews, unreadable = holdover.preview(replace(pending, everything=named))
    if options.json:
        print_json(_json(packages, previews, unreadable))
    else:
        _print(packages, previews, verbose=options.verbose)
    in_the_way = any(preview.item.problem for preview in previews)
    return 1 if show_unreadable(unreadable) or in_the_way else 0


def _simulation(words: Sequence[str]) -> tuple[str, ...]:
    """The last of apt's options counts, so that no other can make it real."""
    if "--" in words:
        raise UsageError("apt-get's words cannot be ended by --", hint="leave it out")
    return "apt-get", *words, "--simulate"


def _concerned(packages: Iterable[apt.Pending], holdover: Holdover) -> list[apt.Pending]:
    """Those that own what a guest may load, and new ones that may bring a successor of it."""
    wanted = {plain_name(path) for path in holdover.files_of_processes()}
    patterns = ["lib*", *(name for program in holdover.programs for name in program.packages)]
    return [
        package
        for package in packages
        if (package.new and names_any([package.name], patterns))
        or wanted.intersection(map(plain_name, _owned(package)))
    ]


def _owned(package: apt.Pending) -> list[str]:
    return changed_files([(package.name, package.architecture)]).split("\n")


def _pending(
    packages: list[apt.Pending], programs: tuple[Program, ...], scratch: Path, report: Progress
) -> PendingFiles:
    owners: dict[str, Replacement] = {}
    contents: dict[str, Path] = {}
    for number, package in enumerate(packages):
        archive = apt.archive_path(package)
        at_hand = bool(package.version) and archive.exists()
        change = Replacement(package.name, package.version, at_hand)
        owners |= dict.fromkeys(map(plain_name, filter(None, _owned(package))), change)
        if at_hand:
            report(f"reading {archive.name}")
            contents |= _unpack(archive, programs, scratch / str(number))
    return PendingFiles(owners, contents)


def _unpack(archive: Path, programs: tuple[Program, ...], directory: Path) -> dict[str, Path]:
    """Libraries and executables of programs in a package file, each by the name it will have."""
    run("dpkg-deb", "--extract", archive, directory)
    found = {}
    for path in directory.rglob("*"):
        if ".so" not in path.name and not any(program.runs(path.name) for program in programs):
            continue
        target = _inside(path, directory)
        if target is not None:
            found[plain_name(f"/{path.relative_to(directory)}")] = target
    return found


def _inside(path: Path, directory: Path) -> Path | None:
    """The file that a name in the package stands for; None if it leads out of it."""
    top = os.path.realpath(directory)
    with suppress(OSError):  # no file has so long a name
        for _ in range(_MAX_LINKS):
            if not Path(os.path.realpath(path.parent)).is_relative_to(top):
                return None
            if not path.is_symlink():
                return path if path.is_file() else None
            target = path.readlink()
            inside = directory / str(target).lstrip("/")
            path = inside if target.is_absolute() else path.parent / target
    return None


def _json(
    packages: tuple[apt.Pending, ...],
    previews: tuple[Preview, ...],
    unreadable: tuple[Unreadable, ...],
) -> dict[str, object]:
    return {
        "schema": "holdover.preview/1",
        "packages": len(packages),
        "processes": [_process_json(preview) for preview in previews],
        "unreadable": [asdict(entry) for entry in unreadable],
    }


def _process_json(preview: Preview) -> dict[str, object]:
    item = preview.item
    return {
        "pid": item.process.id.pid,
        "start_time": item.process.id.start_time,
        "part_of": item.process.part_of,
        "name": item.process.name,
        "state": str(item.state),
        "breaks": [{"module": name, "reason": reason} for name, reason in preview.breaks],
        "delivery": _delivery(preview),
        "modules": preview.modules,
        "libraries": preview.libraries,
        "bytes_held": preview.bytes_held,
        "bytes_written": preview.bytes_written,
        "problem": item.problem,
    }


def _delivery(preview: Preview) -> str | None:
    delivery = preview.item.deliver or preview.item.delivery
    return str(delivery) if delivery else None


def _print(
    packages: tuple[apt.Pending, ...], previews: tuple[Preview, ...], *, verbose: bool
) -> None:
    if not packages:
        print("apt has nothing to do.")
    if not previews:
        print("No process that loads modules late is running.")
        return
    columns = (
        "PID",
        "NAME",
        "STATE",
        "WOULD BREAK",
        "WOULD BE HELD",
        "KEPT",
        "WRITTEN",
        "DELIVERY",
    )
    groups = together(previews, lambda preview: preview.item.process)
    shown = [max(group.all, key=lambda preview: len(preview.breaks)) for group in groups]
    print_table((*columns, "REASON"), [_row(preview) for preview in shown])
    for preview in shown if verbose else ():
        if preview.breaks:
            print()
            pid = preview.item.process.id.pid
            print_table((f"{pid} WITHOUT HOLDOVER", "WOULD FAIL BECAUSE"), preview.breaks)


def _row(preview: Preview) -> tuple[str, ...]:
    item = preview.item
    held = f"{preview.modules} modules, {preview.libraries} libraries" if preview.modules else "-"
    return (
        *process_columns(item.process, item.state),
        f"{len(preview.breaks)} modules" if preview.breaks else "nothing",
        held,
        human_bytes(preview.bytes_held),
        human_bytes(preview.bytes_written),
        _delivery(preview) or "-",
        item.problem or (preview.breaks[0][1] if preview.breaks else item.reason),
    )
