# SPDX-License-Identifier: Apache-2.0
"""Old packages on systems with rpm."""

from pathlib import Path

from holdover.errors import CommandError
from holdover.packages.fetch import Fetched, Progress, Sources, Wanted

__all__ = ["fetch"]


def fetch(
    wanted: Wanted, place: Path, sources: Sources, dependencies: bool, progress: Progress
) -> Fetched:
    """As `packages.fetch.fetch`."""
    raise CommandError("old packages of systems with rpm cannot be fetched yet")
