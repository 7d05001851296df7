# SPDX-License-Identifier: Apache-2.0
"""Letting go of a machine: what is told, what the next boot removes, when nobody is released."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from unit.factories import holding, lease, process, snapshot, store_below, take, write_modules

from holdover.cli.leaving import Farewell, _may_touch_guests, let_go, tell
from holdover.cli.leftovers import BootCleanup, doomed
from holdover.flow import Holdover
from holdover.identity import ProcessId
from holdover.leaving import Departure, Kept, Left
from holdover.procfs import ProcFs
from holdover.store import Store

STORE = Store()
HELD = "qemu-aaaaaaaaaaaa"
DPKG = ProcessId(77, 1000)


def proc_with(root: Path, *command: str) -> ProcFs:
    """One process, the package manager, and the running holdover's namespaces."""
    directory = root / str(DPKG.pid)
    directory.mkdir(parents=True)
    fields = ["S", *["0"] * 18, str(DPKG.start_time), *["0"] * 30]
    (directory / "stat").write_text(f"{DPKG.pid} (dpkg) {' '.join(fields)}\n")
    (directory / "cmdline").write_text("".join(f"{word}\0" for word in command))
    return ProcFs(root)


# -- when nobody may be released -------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("dpkg", "--remove", "holdover"),
        ("/usr/bin/dpkg", "-P", "holdover"),
        ("dpkg", "--purge", "--force-depends", "holdover"),
        ("rpm", "-e", "holdover"),
    ],
    ids=" ".join,
)
def test_transaction_that_removes_holdover_alone_touches_no_guest(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    assert not _may_touch_guests(proc_with(tmp_path, *command), DPKG)


@pytest.mark.parametrize(
    "command",
    [
        ("apt-get", "purge", "holdover"),
        ("dpkg", "--purge", "holdover", "qemu-system-common"),
        ("dpkg", "--install", "holdover"),
        ("dpkg", "--remove", "--pending"),
        ("dpkg", "--remove"),
        ("dpkg", "--admindir", "holdover", "--remove", "qemu-system-common"),
        (),
    ],
    ids=" ".join,
)
def test_any_other_transaction_may_touch_guests(tmp_path: Path, command: tuple[str, ...]) -> None:
    assert _may_touch_guests(proc_with(tmp_path, *command), DPKG)


def test_transaction_that_has_ended_touches_nobody(tmp_path: Path) -> None:
    proc = proc_with(tmp_path, "apt-get")
    assert not _may_touch_guests(proc, replace(DPKG, start_time=DPKG.start_time + 1))


def test_transaction_of_which_only_the_mark_is_known_may_touch_guests(tmp_path: Path) -> None:
    assert _may_touch_guests(ProcFs(tmp_path), None)


# -- what is told ----------------------------------------------------------------------------------


def departure(*left: Left, kept: tuple[Kept, ...] = ()) -> Departure:
    return Departure((process(1, name="web01"),), kept, left, 3 << 20)


def test_everything_that_stays_is_told_with_its_reason() -> None:
    kept = Kept(process(2, name="db01"), HELD, "the files on disk are of another build")
    left = Left(holding(snapshot(HELD)), (("db01", 2),), pinned=False)
    farewell = Farewell(departure(left, kept=(kept,)), (Path("/usr/lib/holdover"),), at_boot=True)
    assert tell(farewell) == [
        "released 1: web01 (1)",
        "db01 (2) is not released: the files on disk are of another build",
        f"/usr/lib/holdover/view/{HELD} stays, for db01 (2)",
        "3.0 MiB stay on disk; they go at the next boot, or when these processes have ended:"
        " rm -r /usr/lib/holdover",
    ]


def test_where_no_boot_removes_it_the_operator_has_to() -> None:
    left = Left(holding(snapshot(HELD)), (("db01", 2),), pinned=False)
    last = tell(Farewell(departure(left), (Path("/a b"),), at_boot=False))[-1]
    assert last.endswith("nothing will remove them; when these processes have ended: rm -r '/a b'")


def test_pinned_snapshot_stays_for_the_operator() -> None:
    left = Left(holding(snapshot(HELD)), (), pinned=True)
    lines = tell(Farewell(departure(left), (), at_boot=False))
    assert lines[1:] == [f"/usr/lib/holdover/view/{HELD} stays, for nobody: it is pinned"]


# -- what the next boot removes --------------------------------------------------------------------


def test_store_goes_whole_if_nothing_else_is_in_it() -> None:
    assert doomed(STORE, [HELD], others=False) == [STORE.objects, STORE.state]


@pytest.mark.parametrize(
    ("store", "others"),
    [(STORE, True), (Store(objects=Path("/srv")), False), (Store(state=Path("/srv")), False)],
    ids=["pinned", "objects elsewhere", "state elsewhere"],
)
def test_otherwise_only_what_is_left_goes(store: Store, others: bool) -> None:
    assert doomed(store, [HELD], others=others) == [
        store.views / HELD,
        store.state / f"snapshot/{HELD}.json",
    ]


@pytest.fixture
def system(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "usr/lib/tmpfiles.d").mkdir(parents=True)
    return root


def test_boot_removes_the_store_and_then_the_order_to_do_so(system: Path) -> None:
    """By systemd-tmpfiles itself, as a boot calls it; otherwise it leaves all as it is."""
    if shutil.which("systemd-tmpfiles") is None:
        pytest.skip("no systemd-tmpfiles")
    store = system / "usr/lib/holdover"
    (store / "view" / HELD).mkdir(parents=True)
    (store / "view" / HELD / "block-rbd.so").touch()
    (system / "var/lib/holdover").mkdir(parents=True)
    cleanup = BootCleanup(system)
    assert cleanup.write([Path("/usr/lib/holdover"), Path("/var/lib/holdover"), Path("/gone")])
    order = cleanup.path.read_text().replace(str(system), "")
    cleanup.path.write_text(order)
    command = ["systemd-tmpfiles", f"--root={system}", "--remove", "holdover-left.conf"]
    subprocess.run(command, check=True)
    assert store.exists()
    subprocess.run([*command, "--boot"], check=True)
    assert not store.exists()
    assert not (system / "var/lib/holdover").exists()
    assert not cleanup.path.exists()


def test_without_tmpfiles_nothing_is_promised(tmp_path: Path) -> None:
    cleanup = BootCleanup(tmp_path)
    assert not cleanup.write([STORE.objects])
    assert not cleanup.path.exists()
    cleanup.forget()


@pytest.mark.parametrize("name", ["with space", "star*", "per%cent", "new\nline", "quo'te"])
def test_path_that_tmpfiles_would_read_otherwise_is_never_written(system: Path, name: str) -> None:
    cleanup = BootCleanup(system)
    assert not cleanup.write([Path("/srv") / name])
    assert not cleanup.path.exists()


# -- leaving itself --------------------------------------------------------------------------------


@pytest.fixture
def holdover(tmp_path: Path) -> Holdover:
    """One whose machine has no processes but the package manager and its own."""
    proc = proc_with(tmp_path / "proc", "apt-get")
    (proc.root / "self").symlink_to("1")
    (proc.root / "1/ns").mkdir(parents=True)
    (proc.root / "1/ns/pid").touch()
    (proc.root / "1/root").symlink_to("/")
    return Holdover(proc=proc, store=store_below(tmp_path / "store"))


def test_machine_on_which_nothing_was_held_is_as_before(
    holdover: Holdover, tmp_path: Path, system: Path
) -> None:
    farewell = let_go(holdover, tmp_path / "mark", BootCleanup(system))
    assert tell(farewell) == []
    assert not holdover.store.objects.exists()
    assert not holdover.store.state.exists()


def test_mark_and_leases_of_the_transaction_go(
    holdover: Holdover, tmp_path: Path, system: Path
) -> None:
    mark = tmp_path / "mark"
    mark.write_text(f"{DPKG.pid} {DPKG.start_time}\n")
    with holdover.writing():
        take(holdover.store, write_modules(tmp_path / "modules", "block-rbd"))
        holdover.store.add_lease(lease(DPKG.pid, start_time=DPKG.start_time))
    assert not let_go(holdover, mark, BootCleanup(system)).departure.left
    assert not mark.exists()
    assert not holdover.store.objects.exists()


def test_what_a_live_process_has_a_lease_for_stays(
    holdover: Holdover, tmp_path: Path, system: Path
) -> None:
    """It was not seen to be pointed anywhere: this may be all that is known of it."""
    cleanup = BootCleanup(system)
    with holdover.writing():
        take(holdover.store, write_modules(tmp_path / "modules", "block-rbd"))
        holdover.store.add_lease(lease(DPKG.pid, start_time=DPKG.start_time))
    farewell = let_go(holdover, tmp_path / "mark", cleanup)
    assert [left.users for left in farewell.departure.left] == [((f"guest{DPKG.pid}", DPKG.pid),)]
    assert f"R! {holdover.store.views / HELD}\n" in cleanup.path.read_text()
    assert (holdover.store.views / HELD).exists()


def test_pinned_snapshot_stays_and_no_boot_removes_it(
    holdover: Holdover, tmp_path: Path, system: Path
) -> None:
    cleanup = BootCleanup(system)
    with holdover.writing():
        take(holdover.store, write_modules(tmp_path / "modules", "block-rbd"))
        holdover.store.pins.add(HELD)
    (left,) = let_go(holdover, tmp_path / "mark", cleanup).departure.left
    assert left.pinned
    assert not cleanup.path.exists()
    assert (holdover.store.views / HELD).exists()
