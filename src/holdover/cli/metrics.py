# SPDX-License-Identifier: Apache-2.0
"""Figures for Prometheus, in the directory from which its node exporter reads text files.

The official client makes the text. It is written here: that directory often belongs to the
exporter's user or lies in one of his, and the client's own `write_to_textfile` follows links.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdover import __version__
from holdover.cli.recording import RESULTS
from holdover.cli.records import HookRecord, read_records
from holdover.errors import CommandError, RefusedError
from holdover.flow import Holdover
from holdover.held import Holding
from holdover.model import Item, Scan, State
from holdover.programs import load_programs

__all__ = [
    "Figures",
    "figures_now",
    "figures_of",
    "exposition",
    "write_metrics",
    "client_problem",
]

FILE = "holdover.prom"


@dataclass(frozen=True, slots=True)
class Figures:
    """What is counted."""

    processes: tuple[tuple[str, str, str, int], ...]
    """(program, state, delivery or "none", how many)"""
    unreadable: int
    foreign: int
    snapshots: int
    held_bytes: int
    """That only the store still keeps on disk."""
    written_bytes: int
    leases: int
    oldest_lease: float
    """Seconds; 0 if there is none."""
    hooks: tuple[HookRecord, ...]


def figures_of(
    seen: Scan,
    items: Iterable[Item],
    holdings: tuple[Holding, ...],
    held: dict[str, int],
    leases: Iterable[float],
    hooks: tuple[HookRecord, ...],
) -> Figures:
    """`held` is what `Store.bytes_held` says, `leases` are the ages of those of live processes."""
    count = Counter(
        (item.process.build.program, str(item.state), str(item.delivery or "none"))
        for item in items
    )
    ages = list(leases)
    return Figures(
        processes=tuple((*key, number) for key, number in sorted(count.items())),
        unreadable=len(seen.unreadable),
        foreign=seen.foreign,
        snapshots=len(holdings),
        held_bytes=sum(held.values()),
        written_bytes=sum(holding.snapshot.bytes_written for holding in holdings),
        leases=len(ages),
        oldest_lease=max(ages, default=0.0),
        hooks=hooks,
    )


def figures_now(holdover: Holdover, seen: Scan, items: Iterable[Item]) -> Figures:
    """With what the store and the hooks' records say at this moment."""
    store = holdover.store
    holdings = store.holdings()
    live = (lease for lease in store.leases() if holdover.proc.is_alive_in(lease) is not False)
    ages = [store.lease_age(lease) for lease in live]
    return figures_of(seen, items, holdings, store.bytes_held(holdings), ages, read_records())


def client_problem() -> str:
    """Why the official client cannot be used, or ""."""
    try:
        import prometheus_client  # noqa: F401 - only whether it can be
    except ImportError as error:
        return f"{error}; install python3-prometheus-client"
    return ""


def exposition(figures: Figures) -> bytes:
    """In Prometheus's text format; raises `CommandError` without the official client."""
    if problem := client_problem():
        raise CommandError(problem)
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, help: str, labels: tuple[str, ...] = ()) -> Any:
        return Gauge(f"holdover_{name}", help, labels, registry=registry)

    gauge("info", "The version of holdover", ("version",)).labels(__version__).set(1)
    _add_processes(gauge, figures)
    gauge("snapshots", "Snapshots that are held").set(figures.snapshots)
    help = "Bytes on disk that only the store still keeps"
    gauge("held_bytes", help).set(figures.held_bytes)
    help = "Bytes of held files that had to be written, not linked"
    gauge("written_bytes", help).set(figures.written_bytes)
    gauge("leases", "Leases of live processes").set(figures.leases)
    help = "Age of the oldest lease of a live process; 0 if there is none"
    gauge("oldest_lease_seconds", help).set(figures.oldest_lease)
    _add_hooks(gauge, figures.hooks)
    text: bytes = generate_latest(registry)
    return text


def _add_processes(gauge: Any, figures: Figures) -> None:
    help = "Processes that load modules late, by state and by how they see what is held for them"
    processes = gauge("processes", help, ("program", "state", "delivery"))
    for program in {program.name for program in load_programs()}:
        for each in State:
            if each is not State.UNREADABLE:  # a series that is there from the beginning
                processes.labels(program, each, "none").set(0)
    for program, state, delivery, number in figures.processes:
        processes.labels(program, state, delivery).set(number)
    help = "Processes that could not be read"
    gauge("unreadable_processes", help).set(figures.unreadable)
    help = "Processes of containers and other roots, which are left alone"
    gauge("foreign_processes", help).set(figures.foreign)


def _add_hooks(gauge: Any, records: Iterable[HookRecord]) -> None:
    names = ("hook", "phase")
    seconds = gauge("last_hook_duration_seconds", "How long the last run of a hook took", names)
    ended = gauge("last_hook_timestamp_seconds", "When the last run of a hook ended", names)
    result = gauge(
        "last_hook_result", "What the last run of a hook came to: 1 for that", (*names, "result")
    )
    for record in records:
        seconds.labels(record.hook, record.phase).set(record.seconds)
        ended.labels(record.hook, record.phase).set(record.ended)
        for name in RESULTS:
            result.labels(record.hook, record.phase, name).set(int(name == record.result))


# -- writing as root into a directory that may be somebody's ---------------------------------------


def write_metrics(figures: Figures, directory: Path) -> bool:
    """Replace the file; False if there is no such directory.

    Raises `CommandError` without the official client, `RefusedError` if a link is in the way, and
    `OSError`.
    """
    if not directory.is_dir():
        return False
    text = exposition(figures)
    handle = _open_directory(directory)
    try:
        _replace(handle, text)
    finally:
        os.close(handle)
    return True


def _open_directory(directory: Path) -> int:
    """Step by step, and no step is a link: who may put one there could lead us anywhere."""
    handle = os.open("/", os.O_PATH | os.O_DIRECTORY)
    for part in directory.parts[1:]:
        above = handle
        try:
            handle = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=above)
        except NotADirectoryError as error:
            raise RefusedError(
                f"{part} in {directory} is a link",
                hint="name the directory itself in metrics.directory",
            ) from error
        finally:
            os.close(above)
    return handle


def _replace(directory: int, text: bytes) -> None:
    """The exporter reads whole files only, and those that end in .prom."""
    place = Path(f"/proc/self/fd/{directory}")
    temporary = place / f"{FILE}.{os.getpid()}.{time.monotonic_ns()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with open(os.open(temporary, flags, 0o644), "wb") as file:
            file.write(text)
        temporary.rename(place / FILE)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
