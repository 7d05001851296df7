# SPDX-License-Identifier: Apache-2.0
"""Libraries as they will be after a change, and what that breaks in a running process."""

from dataclasses import replace
from pathlib import Path

import pytest
from unit.factories import OTHER_STAMP, STAMP, build, held_file, holding, process, snapshot
from unit.hosts import Host

from holdover.cli.preview import _inside, _json, _simulation
from holdover.errors import UsageError
from holdover.held import Purpose
from holdover.identity import ProcessId
from holdover.lateloads import LateLoads
from holdover.linker import Library
from holdover.model import Capture, Item, LateLoad, Needed, State, Unreadable
from holdover.pending import PendingFiles, PendingLibraries, Replacement, plain_name
from holdover.programs import load_programs
from holdover.rewrite import RPATH, rewrite
from holdover.steps.preview import preview

PID = 4711
QEMU = next(p for p in load_programs() if p.name == "qemu")
UPGRADE = Replacement("librbd1", "16.3", at_hand=True)
UNSEEN = replace(UPGRADE, at_hand=False)
REMOVAL = Replacement("librbd1", "")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def change(
    *paths: Path, by: Replacement = UPGRADE, contents: dict[Path, Path] | None = None
) -> PendingFiles:
    """A change of the package that owns these files; `contents` are at hand."""
    owners = dict.fromkeys(map(plain_name, paths), by)
    found = {plain_name(path): new for path, new in (contents or {}).items()}
    return PendingFiles(owners, found)


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", ["/lib/libq.so", "/usr/lib/libq.so"])
@pytest.mark.parametrize("asked", ["/lib/libq.so", "/usr/lib/libq.so"])
def test_names_are_the_same_with_and_without_usr(listed: str, asked: str) -> None:
    pending = change(Path(listed), contents={Path(listed): Path("/new/libq.so")})
    assert pending.replacement(Path(asked)) is UPGRADE
    assert pending.new_file(Path(asked)) == Path("/new/libq.so")
    assert pending.concerns(Path(asked))


def test_file_of_no_package_concerns_nobody_unless_everything_does() -> None:
    pending = change(Path("/usr/lib/libq.so"))
    assert not pending.concerns(Path("/usr/lib"))
    assert replace(pending, everything=True).concerns(Path("/usr/lib"))


@pytest.mark.parametrize(
    ("by", "text"), [(UPGRADE, "librbd1 16.3"), (REMOVAL, "librbd1 is removed")]
)
def test_replacement_says_what_becomes_of_the_package(by: Replacement, text: str) -> None:
    assert str(by) == text


# -- libraries -------------------------------------------------------------------------------------


def after(host: Host, pending: PendingFiles, path: Path) -> Library | None:
    return PendingLibraries(host.libraries, pending).library(path)


def new_file(host: Host, name: str, **image: object) -> Path:
    return host.library(name, where="new", **image)


def test_new_file_lies_in_the_place_of_the_old_one(host: Host) -> None:
    old, new = host.library("libq.so.1"), new_file(host, "libq.so.1", defines=["Q_2"])
    found = after(host, change(old, contents={old: new}), old)
    assert found is not None
    assert (found.path, "Q_2" in found.defines) == (old, True)


def test_new_file_may_lie_where_none_was(host: Host) -> None:
    place = host.root / "lib/libnew.so.1"
    found = after(host, change(contents={place: new_file(host, "libnew.so.1")}), place)
    assert found is not None
    assert found.path == place


@pytest.mark.parametrize("by", [UPGRADE, UNSEEN, REMOVAL])
def test_file_of_the_old_package_is_gone(host: Host, by: Replacement) -> None:
    old = host.library("libq.so.1")
    assert after(host, change(old, by=by), old) is None


def test_link_to_a_file_of_the_old_package_leads_nowhere(host: Host) -> None:
    real, link = host.library("libq.so.1.2"), host.root / "lib/libq.so.1"
    link.symlink_to(real.name)
    assert after(host, change(real), link) is None


def test_library_of_another_package_stays_what_it_is(host: Host) -> None:
    other = host.library("libz.so.1")
    found = after(host, change(host.root / "lib/libq.so.1"), other)
    assert found == host.libraries.library(other)


def test_new_file_for_another_machine_is_none(host: Host) -> None:
    old, new = host.library("libq.so.1"), new_file(host, "libq.so.1")
    new.write_bytes(new.read_bytes()[:18] + b"\xb7\0" + new.read_bytes()[20:])
    assert after(host, change(old, contents={old: new}), old) is None


# -- what would break ------------------------------------------------------------------------------


class Guest:
    """A process with one module of its own, which needs a library."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.library = host.library("librbd.so.1", defines=["RBD_1"])
        self.module = host.module(
            "block-rbd", "librbd.so.1", defined=[STAMP], wants={"librbd.so.1": ["RBD_1"]}
        )
        self.late = host.late_loads()
        host.process(PID)
        own = self.late.of(self.late.process(PID), [self.module])
        self.process = process(id=ProcessId(PID, 1), own=own, late=own)

    def breaks(self, pending: PendingFiles, state: State = State.CURRENT) -> dict[str, str]:
        item = Item(self.process, state, "because")
        return dict(preview(item, self.late, pending, QEMU, ()).breaks)


@pytest.fixture
def guest(host: Host) -> Guest:
    return Guest(host)


def new_module(guest: Guest, stamp: str) -> Path:
    return guest.host.library(
        "block-rbd.so", "librbd.so.1", where="new", soname="", defined=[stamp]
    )


def test_change_of_something_else_breaks_nothing(guest: Guest) -> None:
    assert guest.breaks(change(Path("/usr/lib/libz.so.1"))) == {}


def test_module_that_is_replaced_by_one_of_its_build_stays(guest: Guest) -> None:
    path = guest.module.path
    assert guest.breaks(change(path, contents={path: new_module(guest, STAMP)})) == {}


def test_module_that_is_replaced_by_one_of_another_build_breaks(guest: Guest) -> None:
    path = guest.module.path
    pending = change(path, contents={path: new_module(guest, OTHER_STAMP)})
    assert guest.breaks(pending) == {
        "block-rbd": "librbd1 16.3 replaces it by one of another build"
    }


def test_module_whose_new_file_makes_no_sense_breaks(guest: Guest) -> None:
    path, new = guest.module.path, guest.host.write("new/block-rbd.so", b"no module")
    assert "another build" in guest.breaks(change(path, contents={path: new}))["block-rbd"]


@pytest.mark.parametrize(
    ("by", "reason"),
    [
        (UPGRADE, "librbd1 16.3 has no such module any more"),
        (
            UNSEEN,
            "librbd1 16.3 replaces it; most likely another build, the package is not at hand",
        ),
        (REMOVAL, "librbd1 is removed"),
    ],
)
def test_module_that_goes_breaks_for_the_reason_that_is_known(
    guest: Guest, by: Replacement, reason: str
) -> None:
    assert guest.breaks(change(guest.module.path, by=by)) == {"block-rbd": reason}


def test_library_that_is_replaced_by_one_that_fits_breaks_nothing(guest: Guest) -> None:
    new = new_file(guest.host, "librbd.so.1", defines=["RBD_1", "RBD_2"])
    assert guest.breaks(change(guest.library, contents={guest.library: new})) == {}


def test_library_that_is_replaced_by_one_that_does_not_fit_breaks_the_module(guest: Guest) -> None:
    new = new_file(guest.host, "librbd.so.1", defines=["RBD_2"])
    assert guest.breaks(change(guest.library, contents={guest.library: new})) == {
        "block-rbd": "it needs RBD_1, the librbd.so.1 on disk has only RBD_2"
    }


def test_damaged_new_library_breaks_the_module(guest: Guest) -> None:
    new = guest.host.write("new/librbd.so.1", b"no library")
    pending = change(guest.library, contents={guest.library: new})
    assert "is damaged" in guest.breaks(pending)["block-rbd"]


@pytest.mark.parametrize("by", [UPGRADE, REMOVAL])
def test_library_that_goes_breaks_the_module(guest: Guest, by: Replacement) -> None:
    assert guest.breaks(change(guest.library, by=by)) == {
        "block-rbd": "it needs librbd.so.1, which is not to be found"
    }


def test_library_whose_successor_is_not_at_hand_may_break_the_module(guest: Guest) -> None:
    (reason,) = guest.breaks(change(guest.library, by=UNSEEN)).values()
    assert reason.startswith("librbd1 16.3 replaces librbd.so.1; if that fits cannot be told")


def test_library_that_is_only_held_beside_the_module_does_not_break_it(guest: Guest) -> None:
    plugin = Needed("libplug.so.1", guest.host.library("libplug.so.1"), 1, 1)
    own = tuple(replace(late, needs=(*late.needs, plugin)) for late in guest.process.own)
    guest.process = replace(guest.process, own=own)
    assert guest.breaks(change(plugin.path, by=UNSEEN)) == {}


@pytest.mark.parametrize("state", [State.PROTECTED, State.DEFUSED])
def test_process_that_finds_its_own_is_not_broken(guest: Guest, state: State) -> None:
    assert guest.breaks(change(guest.library, by=REMOVAL), state) == {}


@pytest.mark.parametrize(
    "lost",
    [{"problem": "it is damaged"}, {"other": True}, {"name": "block-loaded"}],
    ids=lambda lost: next(iter(lost)),
)
def test_what_does_not_load_now_or_is_loaded_cannot_break(
    guest: Guest, lost: dict[str, object]
) -> None:
    own = tuple(replace(late, **lost) for late in guest.process.own)  # type: ignore[arg-type]
    guest.process = replace(guest.process, own=own, loaded=frozenset({"block-loaded"}))
    assert guest.breaks(change(guest.library, by=REMOVAL)) == {}


def test_process_that_ended_meanwhile_cannot_be_told(guest: Guest) -> None:
    guest.late = LateLoads(guest.host.proc)
    guest.host.proc.path(PID, "maps").unlink()
    (reason,) = guest.breaks(change(guest.library, by=REMOVAL)).values()
    assert reason.startswith("cannot be told: process 4711")


# -- what would be held ----------------------------------------------------------------------------


def test_what_would_be_captured_is_counted(guest: Guest) -> None:
    plain = guest.host.module("block-ssh")
    modules = (*guest.process.own, LateLoad(plain.name, plain.path))
    wanted = Capture(build(), Purpose.HOLD, guest.host.executable, modules, "because")
    item = Item(guest.process, State.CURRENT, "because", source=wanted)
    seen = preview(item, guest.late, change(guest.library, by=REMOVAL), QEMU, ())
    with guest.module.path.open("rb") as file:
        written = len(rewrite(file, RPATH, ["librbd.so.1"]))
    linked = plain.path.stat().st_size + guest.library.stat().st_size
    assert (seen.modules, seen.libraries) == (2, 1)
    assert (seen.bytes_held, seen.bytes_written) == (written + linked, written)


def test_what_stays_on_disk_is_not_counted_as_kept(guest: Guest) -> None:
    wanted = Capture(build(), Purpose.HOLD, guest.host.executable, guest.process.own, "because")
    item = Item(guest.process, State.CURRENT, "because", source=wanted)
    seen = preview(item, guest.late, PendingFiles({}), QEMU, ())
    assert seen.bytes_held == seen.bytes_written > 0


def test_what_is_held_already_is_counted_and_costs_nothing_more(guest: Guest) -> None:
    files = [held_file("block-rbd"), replace(held_file(), path="lib/librbd.so.1")]
    item = Item(guest.process, State.PROTECTED, "because", snapshot="qemu-held")
    pending = change(Path(files[0].origin), by=REMOVAL)
    seen = preview(item, guest.late, pending, QEMU, (holding(snapshot("qemu-held", files)),))
    assert (seen.modules, seen.libraries, seen.bytes_held, seen.bytes_written) == (1, 1, 10, 0)


def test_process_for_which_nothing_is_held_has_nothing_to_count(guest: Guest) -> None:
    item = Item(guest.process, State.AT_RISK, "because", problem="nothing can be done for it")
    seen = preview(item, guest.late, PendingFiles({}), QEMU, ())
    assert (seen.modules, seen.libraries, seen.bytes_held) == (0, 0, 0)


# -- names in a package ----------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An unpacked one, and a file beside it."""
    (tmp_path / "outside.so").write_bytes(b"")
    directory = tmp_path / "package"
    (directory / "usr/lib").mkdir(parents=True)
    (directory / "usr/lib/real.so").write_bytes(b"")
    return directory


def led(package: Path, *links: tuple[str, str]) -> Path | None:
    """Where the first of these links (name, target) leads to."""
    for name, target in links:
        (package / "usr/lib" / name).symlink_to(target)
    found = _inside(package / "usr/lib" / links[0][0], package)
    return found and found.resolve()


@pytest.mark.parametrize(
    "links",
    [
        [("a.so", "real.so")],
        [("a.so", "../lib/real.so")],
        [("a.so", "/usr/lib/real.so")],
        [("a.so", "b.so"), ("b.so", "real.so")],
        [("a.so", "/usr/lib/b.so"), ("b.so", "/usr/lib/real.so")],
        [("a.so", "same/real.so"), ("same", "../lib")],
    ],
    ids=["beside", "up and down", "absolute", "two", "two absolute", "through a directory"],
)
def test_link_within_the_package_is_followed(package: Path, links: list[tuple[str, str]]) -> None:
    assert led(package, *links) == package / "usr/lib/real.so"


@pytest.mark.parametrize(
    "links",
    [
        [("a.so", "../../../outside.so")],
        [("a.so", "out/outside.so"), ("out", "../../..")],
        [("a.so", "out/passwd"), ("out", "/etc")],
        [("a.so", "b.so"), ("b.so", "../../../outside.so")],
        [("a.so", "gone.so")],
        [("a.so", "/etc/passwd")],
        [("a.so", "a.so")],
        [("a.so", "b.so"), ("b.so", "/usr/lib/a.so")],
        [("a.so", "loop/x.so"), ("loop", "loop")],
        [("a.so", "../lib")],
        [("a.so", "x" * 300)],
    ],
    ids=range(11),
)
def test_link_that_leads_out_or_nowhere_is_not_followed(
    package: Path, links: list[tuple[str, str]]
) -> None:
    assert led(package, *links) is None


def test_file_is_itself(package: Path) -> None:
    path = package / "usr/lib/real.so"
    assert _inside(path, package) == path


# -- how apt is asked ------------------------------------------------------------------------------


def test_no_word_can_make_apt_do_it() -> None:
    words = ["install", "--no-simulate", "-o", "APT::Get::Simulate=false", "libssh-4"]
    assert _simulation(words) == ("apt-get", *words, "--simulate")
    with pytest.raises(UsageError, match="--"):
        _simulation(["install", "--no-simulate", "--", "libssh-4"])


def test_process_that_could_not_be_read_is_named_in_json() -> None:
    lost = Unreadable(4711, "maps cannot be read", "qemu")
    assert _json((), (), (lost,))["unreadable"] == [
        {"pid": 4711, "reason": "maps cannot be read", "program": "qemu"}
    ]
