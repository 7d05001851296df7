# SPDX-License-Identifier: Apache-2.0
"""The store's links for guests of `holdover run`: each leads all of a build to one view."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from holdover.durable import store_errors, sync

__all__ = ["Leads"]


@dataclass(frozen=True)
class Leads:
    """Links below `directory` into `views`; every method raises `StoreError`."""

    directory: Path
    views: Path

    def view(self, place: Path) -> Path | None:
        """Where a link leads; None if it is not there."""
        try:
            target = place.readlink()
        except OSError:
            return None
        return self.views / target.name

    def lead(self, place: Path, view: Path) -> None:
        """Make the place lead to a view, by one rename; whoever looks finds the old or the new one.

        The link is relative: it is followed in the guest's own root.
        """
        with store_errors("lead a build to its modules"):
            new = place.with_name(f".{place.name}.new")
            new.unlink(missing_ok=True)
            new.symlink_to(os.path.join("..", self.views.name, view.name))  # noqa: PTH118
            new.rename(place)
            sync(self.directory)

    def drop(self, place: Path) -> None:
        """Whoever looks there finds nothing, and goes on to the program's own directory."""
        with store_errors("drop a link"):
            place.unlink(missing_ok=True)
            sync(self.directory)

    def drop_to(self, view: Path) -> None:
        """No place leads to this view any more."""
        for place in self._all():
            if self.view(place) == view:
                self.drop(place)

    def sweep(self) -> None:
        """Drop what leads nowhere."""
        for place in self._all():
            if not place.exists():
                self.drop(place)

    def _all(self) -> Iterator[Path]:
        yield from (path for path in sorted(self.directory.glob("[!.]*")) if path.is_symlink())
