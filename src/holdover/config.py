# SPDX-License-Identifier: Apache-2.0
"""What the operator can set: one table, from which file key, variable, flag, default and help come.

    built in  <  /etc/holdover/holdover.toml  <  /etc/holdover/holdover.toml.d/*.toml, by name
              <  HOLDOVER_... in the environment  <  -o KEY=VALUE, and flags of single commands

What cannot be understood, or could have been written by others than root, is ignored and told: a
guest that is left unprotected by a slip of the pen in one line would be the greater harm.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from holdover.kinds import (
    parse_address,
    parse_addresses,
    parse_bytes,
    parse_path,
    parse_seconds,
    parse_some_seconds,
    parse_switch,
    parse_words,
)
from holdover.model import Delivery
from holdover.trust import distrust

__all__ = ["Setting", "Config", "SETTINGS", "load_config", "COMMAND_LINE"]

MAIN_FILE = Path("/etc/holdover/holdover.toml")
DROP_INS = Path("/etc/holdover/holdover.toml.d")
BUILT_IN = "built in"
_MAX_FILE = 64 * 1024
_MAX_LINE = 4096  # a name of many thousand parts takes minutes to read
_MAX_PROBLEMS = 50
COMMAND_LINE = "command line"
DELIVERIES = tuple(map(str, Delivery))
USUAL = tuple(name for name in DELIVERIES if name != Delivery.PRELOAD)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that can be set."""

    key: str
    """In the file: table and name, with a dot between them."""
    parse: Callable[[object], Any]
    help: str
    flag: str = ""
    """The option of those commands that have one of their own for it; `-o` is for all."""
    choices: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"HOLDOVER_{re.sub('[.-]', '_', self.key).upper()}"

    @property
    def attribute(self) -> str:
        """The field of `Config`."""
        return self.key.replace(".", "_")

    def read(self, value: object) -> Any:
        """Raises `ValueError` with what was expected."""
        read = self.parse(value)
        unknown = [word for word in read if word not in self.choices] if self.choices else []
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(self.choices)}")
        return read


def _setting(key: str, parse: Callable[[object], T], default: T, help: str, **more: Any) -> T:
    setting = Setting(key, parse, help, **more)
    made: T = field(default=default, metadata={"setting": setting})
    return made


@dataclass(frozen=True, slots=True)
class Config:
    """The effective values, and where they came from."""

    programs_disabled: tuple[str, ...] = _setting(
        "programs.disabled", parse_words, (), 'programs to leave alone, like ["qemu"]'
    )
    deliveries: tuple[str, ...] = _setting(
        *("deliveries", parse_words, USUAL),
        "how a process may be made to see what is held for it; what is not listed is never done",
        flag="--delivery",
        choices=DELIVERIES,
    )
    store_objects: Path = _setting(
        *("store.objects", parse_path, Path("/usr/lib/holdover")),
        "where files are held: on the file system of the modules, else they have to be copied",
    )
    store_state: Path = _setting(
        "store.state",
        parse_path,
        Path("/var/lib/holdover"),
        "where it is written down what is held",
    )
    store_budget: int = _setting(
        *("store.budget", parse_bytes, 0),
        "how many bytes may be written there in all (links cost none); 0: as many as there are",
    )
    lock_timeout: float = _setting(
        "lock.timeout", parse_seconds, 10.0, "how long to wait for another holdover"
    )
    hook_budget: float = _setting(
        *("hook.budget", parse_some_seconds, 30.0),
        "how long a hook may hold up a transaction before it gives up",
    )
    hook_veto: bool = _setting(
        *("hook.veto", parse_switch, False),
        "stop a transaction before which some process could not be protected",
    )
    look_budget: float = _setting(
        *("look.budget", parse_seconds, 5.0),
        "how much processor time looking at the processes of one user may take",
    )
    pins_lifetime: float = _setting(
        "pins.lifetime", parse_seconds, 90 * 86400.0, "how long a pin keeps a snapshot; 0: forever"
    )
    timer_protect: bool = _setting(
        *("timer.protect", parse_switch, True),
        "protect new processes from the timer too, not only before a transaction",
    )
    rescue_network: bool = _setting(
        *("rescue.network", parse_switch, True),
        "let `holdover rescue` download packages of builds that were replaced",
    )
    rescue_releases: tuple[str, ...] = _setting(
        *("rescue.releases", parse_words, ()),
        "codenames of releases to look in, besides the installed one; none: those that are known",
    )
    rescue_snapshot_archive: str = _setting(
        *("rescue.snapshot_archive", parse_address, ""),
        "address of the distribution's snapshot archive, which has what was superseded",
    )
    rescue_debuginfod: tuple[str, ...] = _setting(
        *("rescue.debuginfod", parse_addresses, ()),
        "addresses of debuginfod servers to ask at last; they vouch for nothing but a build-id",
    )
    libvirt_protect: bool = _setting(
        "libvirt.protect", parse_switch, True, "protect a guest as libvirt starts it"
    )
    journal_enabled: bool = _setting(
        "journal.enabled", parse_switch, True, "write what is done to the journal, or to syslog"
    )
    metrics_directory: Path = _setting(
        *("metrics.directory", parse_path, Path("/var/lib/prometheus/node-exporter")),
        "where the node exporter reads text files; nothing is written if it does not exist",
    )

    origins: Mapping[str, str] = field(default_factory=dict)
    """For each key that is set, where."""
    problems: tuple[str, ...] = ()
    """What was ignored, and why."""

    def origin(self, key: str) -> str:
        """The file, the variable or the option that an effective value comes from."""
        return self.origins.get(key, BUILT_IN)


SETTINGS: tuple[Setting, ...] = tuple(
    found.metadata["setting"] for found in fields(Config) if "setting" in found.metadata
)
_BY_KEY = {setting.key: setting for setting in SETTINGS}


def load_config(
    words: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
    main: Path = MAIN_FILE,
    drop_ins: Path = DROP_INS,
) -> Config:
    """The effective configuration; `words` are KEY=VALUE as given to `-o`. Never fails."""
    config = Config()
    for path in (main, *_drop_ins(drop_ins)):
        config = _with_file(config, path)
    for setting in SETTINGS:
        if setting.variable in environment:
            value = environment[setting.variable]
            config = _with(config, setting.key, value, setting.variable)
    for word in words:
        key, _, text = word.partition("=")
        config = _with(config, key, text, COMMAND_LINE)
    return config


def _drop_ins(directory: Path) -> list[Path]:
    """Those that package managers leave beside them (.dpkg-new, .rpmsave) have other endings."""
    try:
        return sorted(path for path in directory.iterdir() if path.name.endswith(".toml"))
    except OSError:
        return []


def _with_file(config: Config, path: Path) -> Config:
    try:
        problem = distrust(path)
        content = b"" if problem else _content(path)
    except FileNotFoundError:
        return config
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}"
    except ValueError as error:
        problem = str(error)
    if problem:
        return _ignoring(config, f"{path} is ignored: {problem}")
    import tomllib  # most machines have no such file, and the hook starts in milliseconds

    try:
        table = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        return _ignoring(config, f"{path} is ignored: {error}")
    for key, value in _flat(table):
        config = _with(config, key, value, str(path))
    return config


def _content(path: Path) -> bytes:
    """Raises `ValueError` for what is no file to be read in a moment: hooks wait for it."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no regular file")
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise ValueError(f"it has more than {_MAX_FILE >> 10} KiB")
    if any(len(line) > _MAX_LINE for line in content.split(b"\n")):
        raise ValueError(f"it has a line of more than {_MAX_LINE >> 10} KiB")
    return content


def _flat(table: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """One level of tables is all there is."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", found) for inner, found in value.items())
        else:
            yield name, value


def _with(config: Config, key: str, value: object, origin: str) -> Config:
    setting = _BY_KEY.get(key)
    if setting is None:
        return _ignoring(config, f"{origin}: there is no setting {key!r}")
    try:
        changed: Any = {setting.attribute: setting.read(value)}
    except ValueError as error:
        return _ignoring(config, f"{origin}: {key} is ignored: {error}")
    return replace(config, **changed, origins={**config.origins, key: origin})


def _ignoring(config: Config, problem: str) -> Config:
    """Who reads fifty of them has enough to do; a file may be made of nothing else."""
    if len(config.problems) >= _MAX_PROBLEMS:
        return config
    return replace(config, problems=(*config.problems, problem))
