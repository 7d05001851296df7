# SPDX-License-Identifier: Apache-2.0
"""A rewritten module is the module: for its bytes, for tools, and for what the linker makes of it.

Looked at is every module that Debian ships. 12 is always, the others with
`make test-distributions`.
"""

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from lab import Lab
from lab.bindings import Traced, differences, traced
from lab.modules import SETS

from holdover.demo import archive
from holdover.demo.guest import Guest
from holdover.elf import DT_NEEDED, PT_DYNAMIC, ElfFile

pytestmark = pytest.mark.e2e

DIRECTORY = "/usr/lib/x86_64-linux-gnu/qemu"
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
VIEWS = "/usr/lib/holdover/view"
LOADER = "/lib64/ld-linux-x86-64.so.2"
OTHER_TARGETS = {"hw-s390x-virtio-gpu-ccw"}
"""What no executable of x86 can load."""
ATTRIBUTES = {
    "user.holdover-test": "kept",
    "trusted.holdover-test": "kept",
    "security.selinux": "system_u:object_r:lib_t:s0\0",
}
SOME_GROUP = 65534
PROGRAM_HEADERS, COUNT = slice(32, 40), slice(56, 58)


@dataclass
class Held:
    """The modules of one release, and the view that holds them for a guest."""

    lab: Lab
    view: str
    originals: dict[str, Path]
    attributes: set[str]
    """Those that could be set on the originals here."""

    def path(self, name: str) -> Path:
        return self.lab.path(f"{self.view}/{name}.so")

    @cached_property
    def rewritten(self) -> dict[str, Path]:
        """Those that are no links to the original."""
        return {n: path for n, path in self.originals.items() if not path.samefile(self.path(n))}

    @cached_property
    def closures(self) -> dict[str, list[str]]:
        """What each module needs, as the linker itself lists it."""
        return {name: _closure(self.lab, name) for name in self.originals}

    @cached_property
    def resolvers(self) -> list[str]:
        """What comes along behind all that, where libc would open it itself (before 2.34)."""
        if "GLIBC_2.34" in self.lab.path(f"{LIBRARIES}/libc.so.6").read_bytes().decode("latin-1"):
            return []
        return ["libnss_dns.so.2", "libnss_files.so.2"]

    @cached_property
    def unmodified(self) -> Traced:
        """What guests load where there is no view."""
        return traced(self.lab, "unmodified", DIRECTORY)

    @cached_property
    def modified(self) -> Traced:
        """What guests load from the view."""
        return traced(self.lab, "modified", self.view, self.view)

    def wrong(self, check: Callable[[Path, Path], object]) -> dict[str, object]:
        """What is wrong with each rewritten module, as `check` of it and the original says."""
        said = {name: check(path, self.path(name)) for name, path in self.rewritten.items()}
        return {name: problem for name, problem in said.items() if problem}


@pytest.fixture(
    scope="module",
    params=[
        "bookworm",
        *(pytest.param(n, marks=pytest.mark.distributions) for n in SETS if n != "bookworm"),
    ],
)
def held(request: pytest.FixtureRequest, cache: Path, scratch: Path) -> Iterator[Held]:
    modules = SETS[request.param]
    own_base = archive.prepare_base(cache, print, modules.recipe)
    python_from = request.getfixturevalue("base") if modules.python_is_too_old else None
    with Lab.with_holdover(own_base, scratch, python_from) as lab:
        originals = {path.stem: path for path in sorted(lab.path(DIRECTORY).glob("*.so"))}
        assert len(originals) >= modules.least
        attributes = [_make_special(path, number) for number, path in enumerate(originals.values())]
        guest = Guest.start(lab.root, "web01")
        lab.root.run("holdover", "protect", str(guest.pid))
        (view,) = lab.path(VIEWS).iterdir()
        yield Held(lab, f"{VIEWS}/{view.name}", originals, set.intersection(*attributes))


def _make_special(module: Path, number: int) -> set[str]:
    """Give it what a copy might lose; says which attributes this file system takes."""
    os.chown(module, 0, SOME_GROUP)
    module.chmod(0o644 if number % 2 else 0o755)
    for name, value in ATTRIBUTES.items():
        with suppress(OSError):
            os.setxattr(module, name, value.encode())
    os.utime(module, ns=(0, 1_234_567_890_123_456_789 + number))
    return ATTRIBUTES.keys() & os.listxattr(module)


def _closure(lab: Lab, name: str) -> list[str]:
    done = lab.run("env", "LD_TRACE_LOADED_OBJECTS=1", LOADER, f"{DIRECTORY}/{name}.so")
    listed = re.findall(r"^\t(\S+) (?:=> /\S+ )?\(0x", done.stdout, re.MULTILINE)
    return [Path(entry).name for entry in listed if not entry.startswith("linux-vdso")]


def _said(*command: str | Path) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines()


@dataclass(frozen=True)
class Read:
    """What is asked of a file; an `ElfFile` is read as long as it is open."""

    needed: tuple[str, ...]
    paths: tuple[str, str]
    build_id: str


def _read(path: Path) -> Read:
    with path.open("rb") as file:
        elf = ElfFile(file)
        return Read(elf.needed, (elf.rpath, elf.runpath), elf.build_id)


# -- what is in the files --------------------------------------------------------------------------


def test_every_module_is_held_and_those_that_need_something_are_rewritten(held: Held) -> None:
    modules = {path.stem for path in held.lab.path(held.view).glob("*.so") if path.stat().st_size}
    assert modules == held.originals.keys()
    assert held.rewritten.keys() == {name for name, closure in held.closures.items() if closure}


def test_needed_is_followed_by_the_rest_of_the_closure_as_the_linker_lists_it(held: Held) -> None:
    for name in held.rewritten:
        needed = _read(held.originals[name]).needed
        assert held.closures[name][: len(needed)] == list(needed), name
        wanted = [*held.closures[name], *held.resolvers]
        assert list(_read(held.path(name)).needed) == list(dict.fromkeys(wanted)), name


def test_path_leads_to_the_libraries_of_the_view(held: Held) -> None:
    for name in held.rewritten:
        assert _read(held.path(name)).paths == ("$ORIGIN/lib", ""), name


def test_build_id_stays(held: Held) -> None:
    def changed(old: Path, new: Path) -> bool:
        return not _read(old).build_id or _read(old).build_id != _read(new).build_id

    assert held.wrong(changed) == {}


def test_every_byte_stays_but_those_that_say_where_the_new_segment_is(held: Held) -> None:
    def changed(old: Path, new: Path) -> bool:
        before = old.read_bytes()
        return _without_places(before, before) != _without_places(new.read_bytes(), before)

    assert held.wrong(changed) == {}


def _without_places(data: bytes, original: bytes) -> bytes:
    """As long as the original, without what says where headers, .dynamic and .dynstr are."""
    kept = bytearray(data[: len(original)])
    (table,) = struct.unpack_from("<Q", original, 40)
    size, count = struct.unpack_from("<HH", original, 58)
    dynamic = [n for n in range(count) if _section(original, table + n * size)[1] == 6]
    strings = [_section(original, table + n * size)[6] for n in dynamic]
    assert len(dynamic) == 1
    starts = [table + n * size for n in (*dynamic, *strings)]
    for part in (PROGRAM_HEADERS, COUNT, *(slice(at, at + size) for at in starts)):
        kept[part] = bytes(part.stop - part.start)
    return bytes(kept)


def _section(data: bytes, at: int) -> tuple[int, ...]:
    return struct.unpack_from("<IIQQQQIIQQ", data, at)


def test_owner_mode_time_attributes_and_labels_stay(held: Held) -> None:
    assert held.attributes >= {"user.holdover-test"}
    assert held.wrong(lambda old, new: _attributes(old) != _attributes(new)) == {}


def _attributes(path: Path) -> tuple[object, ...]:
    found = path.stat()
    labels = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return found.st_uid, found.st_gid, found.st_mode, found.st_mtime_ns, labels


def _warnings(module: Path) -> list[str]:
    said = _said("readelf", "--all", "--wide", module)
    return [line for line in said if line.startswith("readelf: ")]


def _complaints(module: Path) -> set[str]:
    return {*_said("eu-elflint", "--gnu-ld", module)}


def test_readelf_reads_it_without_a_warning(held: Held) -> None:
    assert held.wrong(lambda _, new: _warnings(new)) == {}


def test_elflint_finds_nothing_that_it_does_not_find_in_the_original(held: Held) -> None:
    assert held.wrong(lambda old, new: _complaints(new) - _complaints(old)) == {}


def test_both_notice_a_file_that_is_wrong(held: Held, tmp_path: Path) -> None:
    """Cut off in the new segment; with section headers that say what was."""
    cut, stale = tmp_path / "cut", tmp_path / "stale"
    for name, original in held.rewritten.items():
        before, after = original.read_bytes(), held.path(name).read_bytes()
        (table,) = struct.unpack_from("<Q", before, 40)
        cut.write_bytes(after[: len(before) + 1])
        stale.write_bytes(after[:table] + before[table:] + after[len(before) :])
        assert _warnings(cut), name
        assert _complaints(stale) - _complaints(original), name


# -- what the linker makes of them -----------------------------------------------------------------


def test_every_module_loads_late(held: Held) -> None:
    assert held.modified.loaded == held.unmodified.loaded
    assert held.originals.keys() - held.modified.loaded <= OTHER_TARGETS


def test_every_symbol_is_bound_to_what_it_was(held: Held) -> None:
    """The resolvers of an old libc bind what they need; nothing binds to them."""
    more = differences(held.unmodified.bindings, held.modified.bindings)
    own = [line for line in more if line.startswith(("+libnss_files", "+libnss_dns"))]
    assert set(more) - set(own) == set()
    assert bool(own) == bool(held.resolvers)


def test_every_symbol_is_bound_to_what_it_was_when_it_is_used(held: Held) -> None:
    """When that is, if at all, may be a matter of time."""
    unmodified = traced(held.lab, "unmodified-lazy", DIRECTORY, now=False).targets
    modified = traced(held.lab, "modified-lazy", held.view, held.view, now=False).targets
    common = unmodified.keys() & modified.keys()
    assert len(common) > len(unmodified) * 0.9
    assert {key for key in common if unmodified[key] != modified[key]} == set()


def test_order_of_needed_is_what_keeps_the_bindings(held: Held) -> None:
    """The same view, but with what was added sorted and before the rest, as other tools do it."""
    other = f"{held.view}-sorted"
    shutil.copytree(held.lab.path(held.view), held.lab.path(other), copy_function=os.link)
    for name, original in held.rewritten.items():
        module = held.lab.path(f"{other}/{name}.so")
        content = _sorted_before(module, len(_read(original).needed))
        module.unlink()
        module.write_bytes(content)
    changed = traced(held.lab, "sorted", other, other)
    assert changed.loaded == held.unmodified.loaded
    assert differences(held.unmodified.bindings, changed.bindings)


def _sorted_before(module: Path, own: int) -> bytes:
    """The module with the NEEDED entries behind the first `own` sorted, and before those."""
    data = bytearray(module.read_bytes())
    with module.open("rb") as file:
        elf = ElfFile(file)
        (start,) = (segment.offset for segment in elf.segments if segment.type == PT_DYNAMIC)
        places = [n for n, (tag, _) in enumerate(elf.dynamic) if tag == DT_NEEDED]
        named = [(elf.dynamic[n][1], name) for n, name in zip(places, elf.needed, strict=True)]
    order = [*sorted(named[own:], key=lambda entry: entry[1]), *named[:own]]
    for place, (value, _) in zip(places, order, strict=True):
        struct.pack_into("<Q", data, start + place * 16 + 8, value)
    return bytes(data)
