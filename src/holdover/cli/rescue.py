# SPDX-License-Identifier: Apache-2.0
"""`holdover rescue`: get the old files back, and protect who was upgraded without protection."""

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

from holdover.cli.events import of_result
from holdover.cli.output import human_bytes, print_json, print_table, progress
from holdover.cli.protect import outcome_json, show_outcomes
from holdover.cli.reports import tell
from holdover.cli.setup import make_holdover, read_config
from holdover.cli.text import printable
from holdover.cli.unseen import check_found, show_unreadable
from holdover.config import Config
from holdover.errors import UsageError
from holdover.held import Holding
from holdover.judging import BAD_STATES
from holdover.model import Result
from holdover.packages.fetch import PackageFile, Sources
from holdover.rescuing import Rescue, rescue

__all__ = ["run_rescue"]

_NEEDED = "\nThese files are needed; get them into a directory, then add: --from DIRECTORY"


def run_rescue(options: Namespace) -> int:
    if not (options.pid or options.all):
        raise UsageError("whom to rescue?", hint="name processes, or say --all")
    config = read_config(options)
    with progress(wanted=not options.json) as report:
        holdover = make_holdover(config, progress=report, deep=True, ask_journal=True)
        sources = _sources(options, config)
        done = rescue(holdover, options.pid, sources, rehearse=not options.no_rehearsal)
        holdings = holdover.store.holdings()
    result = Result(tuple(done.outcomes.values()), unreadable=done.unreadable)
    tell(of_result(result), config)
    if options.json:
        print_json(_rescue_json(done, holdings))
    else:
        _show(done, result, holdings, verbose=options.verbose)
    check_found(options.pid, list(done.outcomes), done.unreadable)
    failed = any(o.failed or o.state in BAD_STATES for o in result.outcomes)
    return 1 if show_unreadable(done.unreadable) or failed or done.missing else 0


def _sources(options: Namespace, config: Config) -> Sources:
    return Sources(
        directory=options.directory and options.directory.absolute(),
        network=config.rescue_network,
        releases=config.rescue_releases,
        snapshot_archive=config.rescue_snapshot_archive,
        debuginfod=config.rescue_debuginfod,
    )


def _rescue_json(done: Rescue, holdings: tuple[Holding, ...]) -> dict[str, object]:
    return {
        "schema": "holdover.rescue/1",
        "processes": [outcome_json(outcome) for outcome in done.outcomes.values()],
        "modules": [
            {"snapshot": snapshot, "name": name, "origin": origin}
            for snapshot, name, origin in _origins(done, holdings)
        ],
        "packages": [asdict(package) for package in done.packages],
        "missing": [asdict(package) for package in done.missing],
        "bytes_downloaded": done.bytes_downloaded,
        "notes": done.notes,
        "unreadable": [asdict(entry) for entry in done.unreadable],
    }


def _origins(done: Rescue, holdings: tuple[Holding, ...]) -> Iterator[tuple[str, str, str]]:
    """(snapshot, module, where it came from) of what was delivered now."""
    given = {outcome.snapshot for outcome in done.outcomes.values() if outcome.changed}
    for holding in holdings:
        if holding.snapshot.id in given:
            for file in holding.snapshot.files:
                if file.path.removesuffix(".so") in holding.snapshot.modules:
                    yield holding.snapshot.id, file.path.removesuffix(".so"), file.origin


def _show(done: Rescue, result: Result, holdings: tuple[Holding, ...], *, verbose: bool) -> None:
    if not result.outcomes:
        print("No process that loads modules late is running.")
    show_outcomes(result, as_json=False)
    modules = list(_origins(done, holdings))
    if modules and verbose:
        print_table(("SNAPSHOT", "MODULE", "FROM"), modules, title="\nWhere the modules came from:")
    elif modules:
        counted = Counter((snapshot, origin) for snapshot, _, origin in modules)
        rows = [(s, str(count), origin) for (s, origin), count in counted.items()]
        print_table(("SNAPSHOT", "MODULES", "FROM"), rows, title="\nWhere the modules came from:")
    if done.packages:
        print(f"\n{_tally(done)}")
    if verbose:
        _show_packages(done.packages, "\nPackages, unpacked in a private directory:")
    for note in dict.fromkeys(done.notes):
        print(f"holdover: {printable(note)}", file=sys.stderr)
    if done.missing:
        title = _NEEDED
        _show_packages(done.missing, title)


def _tally(done: Rescue) -> str:
    count, size = len(done.packages), human_bytes(done.bytes_downloaded)
    return f"{count} packages were used, {size} downloaded; nothing was installed."


def _show_packages(packages: list[PackageFile], title: str) -> None:
    rows = [(p.file_name, human_bytes(p.size), p.digest, p.origin or p.address) for p in packages]
    if rows:
        print_table(("FILE", "SIZE", "DIGEST", "FROM"), rows, title=title)
