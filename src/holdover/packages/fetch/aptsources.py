# SPDX-License-Identifier: Apache-2.0
"""Sources of apt: those of the machine, and the same mirrors with the suites of another release.

Sources: sources.list(5); apt-get(8), indextargets.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Entry", "Target", "parse_one_line", "parse_deb822", "parse_targets"]
__all__ += ["stanza", "suites_of", "codenames", "keys_for", "key_files", "own_codename"]
__all__ += ["targets_of"]

_DEBIAN = {"11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky"}
_UBUNTU = ("jammy", "noble", "questing", "resolute")
_REVISION = re.compile(r"[+~](?:deb|bpo)(\d+)")
_ONE_LINE = re.compile(
    r"deb(?:\s+\[(?P<options>[^]]*)\])?\s+(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>.*)"
)
_UNVERIFIED = re.compile(r"(?im)(?:^|\s)(?:trusted|allow-insecure)\s*[=:]\s*(?!no\b|false\b)\S")
_DEBIAN_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_EMBEDDED_KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----"


@dataclass(frozen=True, slots=True)
class Entry:
    """A source as the machine has it. Those that go without signatures are none of these."""

    text: str
    deb822: bool
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    keys: str
    """Signed-By: files, fingerprints, or a key itself over many lines; "" = all that is trusted."""


@dataclass(frozen=True, slots=True)
class Target:
    """An index of packages that apt has, or could have."""

    uri: str
    release: str
    """The suite as the source names it."""
    codename: str
    """That of the suite's Release file, "" before the first update."""
    component: str
    path: Path = Path("/dev/null")
    meta: str = ""
    """The index's name in the Release file."""
    trusted: bool = False
    """Its Release file was signed."""


def parse_one_line(text: str) -> tuple[Entry, ...]:
    """The sources of packages in a sources.list; what makes no sense to us is left out."""
    return tuple(_one_line_entries(text.splitlines()))


def _one_line_entries(lines: Iterable[str]) -> Iterator[Entry]:
    for line in (line.partition("#")[0].strip() for line in lines):
        found = _ONE_LINE.match(line)
        if found and not _UNVERIFIED.search(found["options"] or ""):
            keys = re.search(r"(?i)(?:^|\s)signed-by=(\S+)", found["options"] or "")
            yield Entry(
                line,
                False,
                uris=(found["uri"],),
                suites=(found["suite"],),
                components=tuple(found["components"].split()),
                keys=keys[1].replace(",", " ") if keys else "",
            )


def parse_deb822(text: str) -> tuple[Entry, ...]:
    """The same of a file of the other format; sources.list(5), DEB822-STYLE FORMAT."""
    entries = []
    for body in re.split(r"\n[ \t]*\n", "\n".join(_without_comments(text))):
        fields = _fields(body)
        if "deb" not in fields.get("types", "").split() or _UNVERIFIED.search(body):
            continue
        uris, suites, components = (
            tuple(fields.get(name, "").split()) for name in ("uris", "suites", "components")
        )
        keys = fields.get("signed-by", "")
        entries.append(Entry(body.strip("\n"), True, uris, suites, components, keys))
    return tuple(entries)


def _without_comments(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if not line.startswith("#"))


def _fields(body: str) -> dict[str, str]:
    """By name in small letters; further lines as they are, blank at the beginning included."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in body.split("\n"):
        if line[:1] in (" ", "\t"):
            if name:
                found[name].append(line)
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            found[name] = [value.strip()]
    return {name: "\n".join(lines) for name, lines in found.items()}


def parse_targets(text: str) -> tuple[Target, ...]:
    """Parse what `apt-get indextargets` prints; only indexes of packages."""
    found = []
    for body in text.split("\n\n"):
        fields = _fields(body)
        if fields.get("created-by") == "Packages" and fields.get("filename", "").startswith("/"):
            found.append(
                Target(
                    uri=fields.get("repo-uri", ""),
                    release=fields.get("release", ""),
                    codename=fields.get("codename", ""),
                    component=fields.get("component", ""),
                    path=Path(fields["filename"]),
                    meta=fields.get("metakey", ""),
                    trusted=fields.get("trusted") == "yes",
                )
            )
    return tuple(found)


def targets_of(entries: Iterable[Entry]) -> tuple[Target, ...]:
    """What apt would say of these sources, as far as it can be known without any list."""
    return tuple(
        Target(uri, suite, "", component)
        for entry in entries
        for uri in entry.uris
        for suite in entry.suites
        for component in entry.components
    )


def stanza(uri: str, suites: Iterable[str], components: Iterable[str], keys: str = "") -> str:
    """A source of our own; it may be as old as it likes, its signature counts."""
    lines = ["Types: deb", f"URIs: {uri}", f"Suites: {' '.join(suites)}"]
    lines += [f"Components: {' '.join(components)}", "Check-Valid-Until: no"]
    return "\n".join([*lines, *([f"Signed-By: {keys}"] if keys else [])]) + "\n"


def key_files(keys: str) -> tuple[str, ...]:
    """The files in a Signed-By; a line of a key that stands there itself may look like one."""
    if _EMBEDDED_KEY in keys:
        return ()
    return tuple(word for word in re.split(r"[\s,]+", keys) if word.startswith("/"))


def keys_for(entries: Iterable[Entry], uri: str) -> str:
    """Signed-By of the machine's source with that address, good for other releases too."""
    same = (e.keys for e in entries if uri.rstrip("/") in (u.rstrip("/") for u in e.uris))
    keys = next(same, "")
    files = key_files(keys)
    debian = any("/debian-archive-" in file for file in files)
    if debian and str(_DEBIAN_KEYS) not in files and _DEBIAN_KEYS.exists():
        return f"{keys} {_DEBIAN_KEYS}"
    return keys


def codenames(version: str, own: str, chosen: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Releases that a package version may be of, the likeliest first.

    One, if the version says so itself; else the latest before our `own` first: guests outlive
    upgrades.
    """
    known = chosen or (_UBUNTU if own in _UBUNTU else (*_DEBIAN.values(), "sid"))
    hint = _REVISION.search(version)
    if hint and _DEBIAN.get(hint[1]) in known:
        return (_DEBIAN[hint[1]],)
    at = known.index(own) if own in known and not chosen else 0
    return (*known[:at][::-1], *known[at:])


def suites_of(targets: Iterable[Target], own: str, other: str) -> dict[str, dict[str, list[str]]]:
    """For each mirror of the release `own`: suites of the release `other`, with components."""
    found: dict[str, dict[str, list[str]]] = {}
    for target in targets:
        suite = target.release if target.release.startswith(own) else target.codename
        if re.fullmatch(rf"{re.escape(own)}(-.*)?", suite):
            renamed = other + suite.removeprefix(own)
            components = found.setdefault(target.uri, {}).setdefault(renamed, [])
            if target.component not in components:
                components.append(target.component)
    return found


def own_codename(targets: Iterable[Target], os_release: str) -> str:
    """Of the release that the machine's sources name; else what /etc/os-release says, or ""."""
    known = (*_DEBIAN.values(), "sid", *_UBUNTU)
    for target in targets:
        for name in (target.codename, target.release):
            if name.partition("-")[0] in known:
                return name.partition("-")[0]
    found = re.search(r'(?m)^VERSION_CODENAME="?([a-z]+)"?$', os_release)
    return found[1] if found else ""
