# SPDX-License-Identifier: Apache-2.0
"""What package managers say before a transaction, and what is made of it."""

from collections.abc import Callable

from fuzz.target import Target, opened, text_of, workplace
from holdover.cli.hooks import _touches
from holdover.cli.listing import Listing
from holdover.concern import hints
from holdover.errors import UsageError
from holdover.packages import Change, apk, apt, aptlist, dnf4, dpkg, libdnf5, pacman, rpm, zypp
from holdover.packages.rpmdb import checked_names, parse_answer

__all__ = ["TARGETS"]

_HINTS = hints()


def _concern(change: Change | None) -> None:
    """As a hook looks whether it concerns anybody; nobody runs here."""
    if change is not None:
        touches = _touches(change, _HINTS, str(workplace("no-proc")))
        if touches:
            touches(workplace("no-proc"))


def _heard(data: bytes) -> bytes:
    with opened(data) as file:
        file.seek(0)
        return Listing(file.fileno()).read(5.0)


def _says(read: Callable[[bytes], Change | None]) -> Callable[[bytes], None]:
    return lambda data: _concern(read(_heard(data)))


def _of_apt(listing: bytes) -> Change:
    """Two packages are installed."""
    info = workplace("info")
    for name in ("qemu-block-extra", "libssh-4:amd64"):
        (info / f"{name}.list").write_text(f"/usr/lib/{name}.so\n")
    return aptlist.read_change((), listing, str(info))


def _of_names(parse: Callable[[bytes], object]) -> Callable[[bytes], Change]:
    """What names packages, of which rpm is asked for the files; it is not asked here."""

    def read(listing: bytes) -> Change:
        names = parse(listing)
        words = tuple(str(name) for name in names) if isinstance(names, tuple | dict) else ()
        checked_names(words)
        return Change(words, "")

    return read


def _nothing(listing: bytes) -> None:
    apk.read_change((), listing)
    dpkg.read_change((), listing)


def _simulation(data: bytes) -> None:
    for pending in apt.parse_simulation(text_of(data), "amd64"):
        apt.archive_path(pending)


def _answer(data: bytes) -> None:
    owned = parse_answer(("qemu-common", "glibc"), text_of(data))
    _concern(Change(tuple(owned.installed), owned.files))


_USAGE = (UsageError,)
_LISTING = "64 MiB, a quarter of hook.budget"
TARGETS = {
    "hook-apt": Target(_says(_of_apt), (UsageError, OSError), _LISTING),
    "hook-rpm": Target(_says(lambda data: rpm.read_change((), data)), _USAGE, _LISTING),
    "hook-pacman": Target(_says(lambda data: pacman.read_change((), data)), _USAGE, _LISTING),
    "hook-dnf4": Target(_says(_of_names(dnf4.parse_names)), _USAGE, _LISTING),
    "hook-libdnf5": Target(_says(_of_names(libdnf5.parse_names)), _USAGE, _LISTING, growth=64),
    "hook-zypp": Target(_says(_of_names(zypp.parse_steps)), _USAGE, _LISTING, growth=64),
    "hook-untold": Target(_nothing, (), "nothing is read"),
    "rpm-answer": Target(_answer, (), "what rpm prints"),
    "apt-simulation": Target(_simulation, _USAGE, "what apt prints"),
}
