# SPDX-License-Identifier: Apache-2.0
"""From `rescue` to protected, of a guest that was upgraded within its release."""

import json
from dataclasses import dataclass

from benchmarks.measure import TIME_COLUMNS, Command, Series, Stopwatch, time_cells
from benchmarks.report import Bench, Table
from holdover.cli.output import human_bytes
from holdover.demo.archive import QEMU_PACKAGES, qemu_builds
from holdover.demo.guest import Guest
from holdover.errors import CommandError

__all__ = ["measure"]

CACHED = "holdover rescue, packages in apt's cache"
UNREHEARSED = "the same, --no-rehearsal"
LOADED = "holdover rescue, packages downloaded"
DOWNLOAD = "apt-get download of the same packages"
_CACHE, _ASIDE = "/var/cache/apt/archives", "/srv/aside"


@dataclass(frozen=True)
class Rescuing:
    """`downloaded` is in bytes, for the guest whose packages were not cached."""

    series: tuple[Series, ...]
    downloaded: int

    def tables(self) -> list[Table]:
        rows = [(series.name, *time_cells(series, self.series[0])) for series in self.series]
        title = f"A rescue; {human_bytes(self.downloaded)} downloaded where they were"
        return [Table(title, ("COMMAND", *TIME_COLUMNS), rows)]

    def json(self) -> dict[str, object]:
        return {"series": [s.json() for s in self.series], "downloaded_bytes": self.downloaded}


def measure(bench: Bench) -> Rescuing:
    with bench.watch() as watch:
        return _measure(watch, bench.rounds)


def _measure(watch: Stopwatch, rounds: int) -> Rescuing:
    """Begins with the upgrade of QEMU, so nothing else can be measured in that root."""
    root = watch.root
    guest = Guest.start(root, "rescued")
    older, newer = qemu_builds(root)
    root.apt("install", *(f"{package}={newer}" for package in QEMU_PACKAGES))
    rescue = ("/usr/bin/holdover", "rescue", str(guest.pid), "--json")
    wanted = " ".join(f"{package}={older}" for package in QEMU_PACKAGES)
    download = f"cd $(mktemp -d) && apt-get --quiet download {wanted}"
    series = {name: Series(name) for name in (CACHED, UNREHEARSED, LOADED, DOWNLOAD)}
    for _ in range(rounds):
        for name, words in ((CACHED, rescue), (UNREHEARSED, (*rescue, "--no-rehearsal"))):
            series[name].runs += watch.round({name: Command(words)}).values()
            _forget(watch, guest)
        _move(watch, older, _CACHE, _ASIDE)
        series[LOADED].runs += watch.round({LOADED: Command(rescue)}).values()
        _forget(watch, guest)
        series[DOWNLOAD].runs += watch.round(
            {DOWNLOAD: Command(("/bin/sh", "-c", download))}
        ).values()
        _move(watch, older, _ASIDE, _CACHE)
    downloaded = json.loads(series[LOADED].runs[-1].output)["bytes_downloaded"]
    return Rescuing(tuple(series.values()), downloaded)


def _move(watch: Stopwatch, version: str, origin: str, target: str) -> None:
    """The package files of one build; in the cache a colon is written as %3a."""
    names = f"{origin}/qemu-*_{version.replace(':', '%3a')}_*.deb"
    watch.root.run("sh", "-c", f"mkdir -p {target} && mv {names} {target}")


def _forget(watch: Stopwatch, guest: Guest) -> None:
    """So that the next rescue finds the guest at risk, and the store empty."""
    found = json.loads(watch.root.run("holdover", "status", "--json", check=False).stdout)
    if found["processes"][0]["state"] != "protected":
        raise CommandError(f"the guest was not rescued: {found['processes'][0]['reason']}")
    watch.root.run("holdover", "release", str(guest.pid), "--force")
    watch.root.run("holdover", "gc")
