# SPDX-License-Identifier: Apache-2.0
"""Directories in which programs look last, made to lead to views. The caller is the store's writer.

    /run/qemu/<version>/                what such a program opens
    ├── .holdover                       link to the view: this directory is ours
    ├── <module>.so                     link to the module in the view
    └── lib                             link to its libraries
    /run/qemu/.<version>.before         what lay there; it is put back
    /run/qemu/.<version>.new, .old      one that is being made, one that is being removed
    /run/holdover/fallback/<directory>  link to the directory: it may be ours, or half made

Links, not a mount: what is behind them lies on the store's file system, whether /run is noexec or
not; every mount namespace that has this /run has them, without propagation; and maintainer scripts
can remove them. A mount would make those fail, and the transaction with them.
"""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdover.durable import store_errors

__all__ = ["Fallbacks", "MARK", "links_to"]

MARK = ".holdover"
_MADE = ".made-"


def links_to(view: Path) -> Iterator[tuple[str, Path]]:
    """Names in a directory that leads to `view`, and what they lead to; decoys have none."""
    yield MARK, view
    for path in sorted(view.iterdir()):
        if path.is_dir() or (path.suffix == ".so" and path.stat().st_size):
            yield path.name, path


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """Those that were made; `records` remembers them. Raises `StoreError`."""

    records: Path

    def all(self) -> dict[Path, Path | None]:
        """Each directory, with the view that it leads to; None if it does not."""
        with store_errors("read which fallback directories there are"):
            found = [path.readlink() for path in self.records.glob("[!.]*")]
        return {directory: self.view_at(directory) for directory in found}

    def view_at(self, directory: Path) -> Path | None:
        """The view that `directory` leads to; None if it is not ours."""
        with suppress(OSError):
            return (directory / MARK).readlink()
        return None

    def put(self, directory: Path, view: Path) -> None:
        """Make `directory` lead to `view`; what somebody else has there is kept beside it."""
        before, new, old = _beside(directory)
        with store_errors(f"make {directory} lead to what is held"):
            self._record(directory)
            _make(new, view)
            if directory.exists():
                aside = before if self.view_at(directory) is None else old
                _remove(aside)
                directory.rename(aside)
            new.rename(directory)  # a load that came in between found nothing: it may come again
            _remove(old)

    def remove(self, directory: Path) -> None:
        """Take it away, or what a killed run left of it; what lay there before is put back."""
        before, new, old = _beside(directory)
        with store_errors(f"remove {directory}"):
            _remove(new)
            _remove(old)
            if self.view_at(directory) is not None:
                directory.rename(old)
                _remove(old)
            if directory.exists():
                _remove(before)
            elif before.exists():
                before.rename(directory)
            self._forget(directory)

    def _record(self, directory: Path) -> None:
        self.records.mkdir(parents=True, exist_ok=True)
        parent = directory.parent
        with suppress(FileExistsError):
            self._name(directory).symlink_to(directory)
        if not parent.exists():
            made = self._name(parent, _MADE)
            made.unlink(missing_ok=True)
            made.symlink_to(parent)
            parent.mkdir(mode=0o755)
            parent.chmod(0o755)  # whatever the umask is

    def _forget(self, directory: Path) -> None:
        self._name(directory).unlink(missing_ok=True)
        made = self._name(directory.parent, _MADE)
        if made.is_symlink():
            with suppress(OSError):  # somebody else has something in it
                directory.parent.rmdir()
                made.unlink()

    def _name(self, directory: Path, prefix: str = "") -> Path:
        return self.records / f"{prefix}{str(directory)[1:].replace('/', ',')}"


def _beside(directory: Path) -> tuple[Path, ...]:
    """On the same file system, so that one rename is all; hidden, so that no pattern fits."""
    return tuple(
        directory.with_name(f".{directory.name}.{end}") for end in ("before", "new", "old")
    )


def _make(directory: Path, view: Path) -> None:
    _remove(directory)
    directory.mkdir()
    directory.chmod(0o755)
    for name, target in links_to(view):
        (directory / name).symlink_to(target)


def _remove(path: Path) -> None:
    """Whatever it is; nothing behind a link is touched."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
