# SPDX-License-Identifier: Apache-2.0
"""What holdover itself has written, read with distrust, and what an operator writes for it."""

import math
import shutil
from pathlib import Path

from fuzz.target import KIB, Target, text_of, workplace, written
from holdover.cli.events import NOT_PROTECTED
from holdover.cli.records import read_records
from holdover.cli.snapshots import _listed, _row
from holdover.cli.timer import _news
from holdover.cli.transactions import marked
from holdover.config import SETTINGS, load_config
from holdover.errors import MalformedError, StoreError
from holdover.fallbacks import Fallbacks
from holdover.kinds import show
from holdover.pins import Pins
from holdover.places import places
from holdover.programs import Program, parse_program
from holdover.store import Store

__all__ = ["TARGETS"]

_ID, _OTHER = "qemu-aaaaaaaaaaaa", "qemu-bbbbbbbbbbbb"
_LONGEST_NAME = 200


def _fresh(name: str) -> Path:
    directory = workplace(name)
    shutil.rmtree(directory)
    directory.mkdir()
    return directory


def _name(data: bytes) -> str:
    """Any name that a file can have."""
    raw = data[:_LONGEST_NAME].replace(b"/", b"").replace(b"\0", b"")
    return "" if raw in (b".", b"..") else raw.decode("utf-8", "surrogateescape")


def _store(name: str) -> Store:
    directory = _fresh(name)
    store = Store(directory / "usr", directory / "var", directory / "run")
    for needed in ("usr/view", "var/snapshot", "var/rehearsal", "run/lease", "run/released"):
        (directory / needed).mkdir(parents=True)
    return store


def _manifest(data: bytes) -> None:
    """Beside a sound one: all are sorted, counted and summed up as `list` and `gc` do."""
    store = _store("manifests")
    (store.state / f"snapshot/{_ID}.json").write_bytes(data)
    (store.state / f"snapshot/{_OTHER}.json").write_bytes(_SOUND)
    for snapshot in (_ID, _OTHER):
        (store.views / snapshot).mkdir()
    holdings = store.holdings()
    store.bytes_held(holdings)
    for holding in holdings:
        _row(_listed(holding, 0, (), frozenset()))
        store.damage(holding)
        holding.snapshot.libraries, holding.snapshot.modules  # noqa: B018
        sum((holding.snapshot.bytes_written, 0))
        if holding.snapshot.id != holding.view.name:
            raise AssertionError("a manifest speaks of another snapshot's view")


_SOUND = (Path(__file__).parent / "corpus/manifest/sound").read_bytes()


def _rehearsal(data: bytes) -> None:
    store = _store("rehearsals")
    (store.state / f"snapshot/{_OTHER}.json").write_bytes(_SOUND)
    (store.state / f"rehearsal/{_OTHER}.json").write_bytes(data)
    (store.views / _OTHER).mkdir()
    store.holdings()


def _lease(data: bytes) -> None:
    """The name up to a newline, then the content."""
    store = _store("leases")
    name, _, content = data.partition(b"\n")
    (store.run / "lease" / (_name(name) or "x")).write_bytes(content)
    for lease in store.leases():
        store.leases_of(lease.process)
        store.lease_age(lease)


def _pin(data: bytes) -> None:
    """What cannot be read counts as pinned."""
    directory = _fresh("pins")
    (directory / f"{_ID}.json").write_bytes(data)
    if not Pins(directory).valid(math.inf):
        raise AssertionError("a pin was lost")


def _names(data: bytes) -> None:
    """Names of files are all there is to the records of released processes, and of hooks."""
    store = _store("names")
    for line in data.split(b"\n")[:10]:
        (store.run / "released" / (_name(line) or "x")).touch()
    store.released.all()
    read_records(store.run / "released")


def _links(data: bytes) -> None:
    """Where links lead is all there is to those of fallback directories, and of `run`."""
    store = _store("links")
    target = data.replace(b"\0", b"")[:_LONGEST_NAME] or b"x"
    for directory in (store.run / "fallback", places(store.views)):
        directory.mkdir(parents=True)
        (directory / "one").symlink_to(target.decode("utf-8", "surrogateescape"))
    Fallbacks(store.run / "fallback").all()
    store.leads.sweep()


def _hook_record(data: bytes) -> None:
    directory = _fresh("hooks")
    (directory / "apt-before").write_bytes(data)
    read_records(directory)


def _told(data: bytes) -> None:
    _news([], written("told", "told", data))
    str(NOT_PROTECTED)


# -- what an operator writes -----------------------------------------------------------------------


def _config(data: bytes) -> None:
    """Never fails, and what it made of it can be shown."""
    config = load_config((), {}, written("config", "holdover.toml", data), Path("/none"))
    for setting in SETTINGS:
        show(getattr(config, setting.attribute))


def _settings(data: bytes) -> None:
    """The same of `-o` and of variables."""
    text = data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
    variables = {setting.variable: text for setting in SETTINGS}
    words = [f"{setting.key}={text}" for setting in SETTINGS]
    config = load_config((*words, text), variables, Path("/none"), Path("/none"))
    for setting in SETTINGS:
        show(getattr(config, setting.attribute))


def _program(data: bytes) -> Program:
    return parse_program(text_of(data))


_STORE = (StoreError,)
_OWN = "4 MiB; root alone writes it"
TARGETS = {
    "manifest": Target(_manifest, _STORE, _OWN, growth=64),
    "rehearsal-record": Target(_rehearsal, _STORE, _OWN, growth=64),
    "lease": Target(_lease, _STORE, _OWN, growth=64),
    "pin": Target(_pin, _STORE, _OWN, growth=64),
    "record-names": Target(_names, _STORE, "255 bytes a name", swells=False),
    "links": Target(_links, _STORE, "4 KiB (PATH_MAX)", swells=False),
    "transactions": Target(lambda data: marked(written("marker", "m", data)), (), "64 KiB"),
    "hook-record": Target(_hook_record, (), "200 bytes"),
    "told": Target(_told, (), "1 MiB; root alone writes it"),
    "config": Target(_config, (), "64 KiB, lines of 4 KiB", fixed=32 * KIB * KIB),
    "settings": Target(_settings, (), "what exec(2) takes", longest=1 * KIB),
    "program": Target(_program, (MalformedError,), "comes with holdover", growth=256, trials=60),
}
