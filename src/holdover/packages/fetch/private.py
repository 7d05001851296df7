# SPDX-License-Identifier: Apache-2.0
"""apt with configuration, lists and status of its own: nothing of the machine's changes.

Of the machine's configuration it has what is needed to reach an archive and to check signatures;
not its hooks, not its preferences, and no permission to go without a signature. The status is
empty: nothing counts as installed. Source: apt.conf(5).
"""

import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdover.errors import CommandError
from holdover.packages.fetch import PackageFile
from holdover.packages.fetch.aptsources import (
    Entry,
    Target,
    parse_deb822,
    parse_one_line,
    parse_targets,
)
from holdover.packages.fetch.apttext import (
    parse_downloaded,
    parse_madison,
    parse_records,
    parse_resolved,
    parse_uris,
)
from holdover.run import Done, run
from holdover.trust import distrust

__all__ = ["HostApt", "PrivateApt", "read_host", "parse_shell"]

_HELPER = Path("/usr/lib/apt/apt-helper")
_TIMEOUT = 1800.0  # seconds for one command; apt gives up on a silent server by itself
_MAX_SHELL = 1 << 16  # characters of what apt-config says of six options
_MAX_SOURCES = 1 << 20  # bytes that are read of a file with sources
_KEPT = re.compile(
    r"(?:Acquire::(?!IndexTargets|Changelogs|Languages|Allow|Check-|GzipIndexes|CompressionTypes)"
    r"|APT::Architectures?\b|APT::Sandbox::|Dir::Etc::(?:trusted|netrc)|Dir::Bin::)"
    r'\S* "[^"\n]*";'
)
_SHELL = {
    "LIST": "Dir::Etc::sourcelist/f",
    "PARTS": "Dir::Etc::sourceparts/d",
    "LISTS": "Dir::State::lists/d",
    "ARCHIVES": "Dir::Cache::archives/d",
    "ARCHITECTURE": "APT::Architecture",
    "USER": "APT::Sandbox::User",
}


@dataclass(frozen=True, slots=True)
class HostApt:
    """What the machine's apt is told, as far as it is of use here."""

    lines: tuple[str, ...]
    entries: tuple[Entry, ...]
    lists: Path
    archives: Path
    architecture: str
    user: str
    """That apt downloads as, "" = root."""


def read_host() -> HostApt:
    """Raises `CommandError` if apt cannot be asked."""
    words = (word for pair in _SHELL.items() for word in pair)
    values = parse_shell(run("apt-config", "shell", *words).stdout)
    dump = run("apt-config", "dump").stdout.splitlines()
    lists, parts = Path(values.get("LIST", "")), Path(values.get("PARTS", ""))
    entries = parse_one_line(_text(lists))
    for path in sorted(parts.glob("*")) if parts.is_dir() else ():
        parse = {".list": parse_one_line, ".sources": parse_deb822}.get(path.suffix)
        entries += parse(_text(path)) if parse else ()
    return HostApt(
        lines=tuple(line for line in dump if _KEPT.fullmatch(line)),
        entries=entries,
        lists=Path(values.get("LISTS", "/var/lib/apt/lists")),
        archives=Path(values.get("ARCHIVES", "/var/cache/apt/archives")),
        architecture=values.get("ARCHITECTURE", ""),
        user=values.get("USER", ""),
    )


def parse_shell(text: str) -> dict[str, str]:
    """The variables that `apt-config shell` sets; raises `CommandError` if they make no sense."""
    try:
        if len(text) > _MAX_SHELL:
            raise ValueError(f"{len(text)} characters")
        return dict(word.partition("=")[::2] for word in shlex.split(text))
    except ValueError as error:
        raise CommandError(f"what apt-config says makes no sense: {error}") from error


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SOURCES).decode("utf-8", "replace")
    except OSError:
        return ""


class PrivateApt:
    """One set of sources, and what their indexes know. `directory` is made if it is not there."""

    def __init__(self, directory: Path, host: HostApt, sources: Iterable[Entry | str]) -> None:
        self.directory = directory
        self.host = host
        self.bytes_downloaded = 0
        self.lists = directory / "lists"
        self._configuration = directory / "apt.conf"
        if self._configuration.exists():
            return
        for name in ("lists/partial", "cache/archives/partial", "state", "log", "sources.list.d"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / "status").touch()
        self._write_sources(sources)
        self._configuration.write_text(_configuration(directory, host))

    def _write_sources(self, sources: Iterable[Entry | str]) -> None:
        lines: list[str] = []
        stanzas: list[str] = []
        for source in sources:
            if isinstance(source, str):
                stanzas.append(source)
            else:
                (stanzas if source.deb822 else lines).append(f"{source.text}\n")
        (self.directory / "sources.list").write_text("".join(lines))
        (self.directory / "sources.list.d/own.sources").write_text("\n".join(stanzas))

    def _run(self, *words: str, check: bool = True) -> Done:
        command = ("env", f"APT_CONFIG={self._configuration}", *words)
        return run(*command, check=check, timeout=_TIMEOUT)

    # -- indexes -------------------------------------------------------------------------------

    def targets(self, lists: Path | None = None) -> tuple[Target, ...]:
        """Indexes that are there or could be; in `lists` if they are not our own."""
        option = ("-o", f"Dir::State::lists={lists}") if lists else ()
        done = self._run("apt-get", *option, "indextargets", "Created-By: Packages")
        return parse_targets(done.stdout)

    def adopt_lists(self) -> tuple[str, ...]:
        """Copy the machine's lists that were signed; says which ones were not.

        apt may keep links into an archive on this machine, whose owner can change it since.
        """
        refused = []
        for target in self.targets(self.host.lists):
            if not target.path.exists():
                continue
            files = [target.path, *self._release_files(target)]
            problem = "" if target.trusted else "it is not signed"
            problem = problem or next(filter(None, map(distrust, files)), "")
            if problem:
                refused.append(f"{target.uri} {target.release} is not used: {problem}")
                continue
            for path in files:
                shutil.copy2(path, self.lists)
        return tuple(dict.fromkeys(refused))

    def _release_files(self, target: Target) -> list[Path]:
        base, meta, _ = target.path.name.rpartition(target.meta.replace("/", "_") or "/")
        names = ("InRelease", "Release", "Release.gpg") if meta else ()
        paths = [self.host.lists / f"{base}{name}" for name in names]
        return [path for path in paths if path.exists()]

    def update(self) -> str:
        """Download what is newer; says what could not be had. What apt has verified is there."""
        marker = self.directory / "updated"
        if marker.exists():
            return ""
        done = self._run("apt-get", "update", check=False)
        marker.touch()
        self.bytes_downloaded += parse_downloaded(done.stdout)
        complaints = [line for line in done.stderr.splitlines() if line.startswith(("E: ", "W: "))]
        return complaints[0][3:] if done.returncode and complaints else ""

    def versions(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """All that the indexes know of these packages, newest first."""
        if not names:
            return {}
        return parse_madison(self._run("apt-cache", "madison", *names, check=False).stdout)

    def names(self) -> tuple[str, ...]:
        return tuple(self._run("apt-cache", "pkgnames").stdout.split())

    def records(self, pins: Sequence[str]) -> tuple[dict[str, str], ...]:
        """What the indexes say of these packages, each "name=version"."""
        done = self._run("apt-cache", "show", "--no-all-versions", *pins, check=False)
        return parse_records(done.stdout)

    def locate(self, pins: Sequence[str]) -> tuple[PackageFile, ...]:
        """Their files; raises `CommandError` if the indexes do not know one of them."""
        return parse_uris(self._run("apt-get", "--print-uris", "download", *pins).stdout)

    def closure(self, pins: Sequence[str]) -> tuple[str, ...]:
        """All that has to be there for these, as pins; raises `CommandError` if that cannot be."""
        options = ("-qq", "--yes", "--no-install-recommends", "--print-uris")
        done = self._run("apt-get", *options, "install", *pins)
        return parse_resolved(done.stdout, self.host.architecture)

    # -- files ---------------------------------------------------------------------------------

    def download(self, files: Sequence[tuple[str, Path, str]]) -> str:
        """Download (address, path, digest or ""); says what went wrong. Others may write there."""
        words = []
        for address, path, digest in files:
            kind, _, number = digest.partition(":")
            words += [address, str(path), f"{kind.upper()}:{number}" if number else ""]
        if not words:
            return ""
        try:
            done = self._run(str(_HELPER), "download-file", *words)
        except CommandError as error:
            lines = [line for line in error.hint.splitlines() if line.startswith("E: ")]
            return lines[0][3:] if lines else str(error)
        self.bytes_downloaded += parse_downloaded(done.stdout)
        return ""

    def make_download_directory(self) -> Path:
        """Where apt's own user may write; files are copied from there before they are checked."""
        directory = self.directory / "download"
        directory.mkdir(mode=0o700, exist_ok=True)
        if self.host.user not in ("", "root"):
            with suppress(LookupError):  # then apt downloads as root
                shutil.chown(directory, self.host.user)
        return directory


def _configuration(directory: Path, host: HostApt) -> str:
    own = {
        "Dir::Etc::Main": "/dev/null",
        "Dir::Etc::Parts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::Etc::sourcelist": f"{directory}/sources.list",
        "Dir::Etc::sourceparts": f"{directory}/sources.list.d",
        "Dir::State": f"{directory}/state",
        "Dir::State::lists": f"{directory}/lists",
        "Dir::State::status": f"{directory}/status",
        "Dir::Cache": f"{directory}/cache",
        "Dir::Log": f"{directory}/log",
        "Acquire::Languages": "none",
        "Acquire::GzipIndexes": "true",
        "Acquire::IndexTargets::deb-src::Sources::DefaultEnabled": "false",
        "APT::Get::AllowUnauthenticated": "false",
    }
    lines = [*host.lines, *(f'{key} "{value}";' for key, value in own.items())]
    return "".join(f"{line}\n" for line in lines)
