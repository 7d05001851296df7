# SPDX-License-Identifier: Apache-2.0
"""Guests that `holdover run` started: protected, and nothing is ever written to them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab

from holdover.demo.guest import ATTACHED, DIED, PROBES, REFUSED, Guest
from holdover.environ import LiveEnvironment, read_environment
from holdover.memory import Memory
from holdover.procfs import ProcFs

pytestmark = pytest.mark.e2e

RUN = ("holdover", "run", "--")
WORKS_TWICE = (ATTACHED, ATTACHED)
STARTS = {
    "first": RUN,
    "second": RUN,
    "unprivileged": ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *RUN),
    "own-namespace": ("unshare", "--mount", *RUN),
    "elsewhere": ("env", "LD_LIBRARY_PATH=/opt", *RUN),
}
PLACES = "/usr/lib/holdover/run"


@dataclass
class Ran:
    """A system that was upgraded under guests; `twin` is not protected any more."""

    lab: Lab
    guests: dict[str, Guest]
    written: Guest
    """Protected through its environment."""
    twin: Guest
    before: dict[str, LiveEnvironment]
    said: str


def environment(guest: Guest) -> LiveEnvironment:
    proc = ProcFs(guest.root.inside / "proc")
    with Memory(proc, guest.pid) as memory:
        return read_environment(proc, guest.pid, memory)[1]


def places(lab: Lab) -> dict[str, Path]:
    return {path.name: path.readlink() for path in lab.path(PLACES).iterdir()}


@pytest.fixture(scope="module")
def ran(base: Path, scratch: Path) -> Iterator[Ran]:
    with Lab.with_holdover(base, scratch) as lab:
        lab.root.run("holdover", "enable")
        guests = {name: Guest.start(lab.root, name, wrapper=by) for name, by in STARTS.items()}
        written, twin = (Guest.start(lab.root, name) for name in ("written", "twin"))
        before = {guest.name: environment(guest) for guest in (*guests.values(), written)}
        said = lab.upgrade().stdout
        lab.root.run("holdover", "release", "--force", str(twin.pid))
        yield Ran(lab, guests, written, twin, before, said)


def test_nothing_is_written_to_a_guest_that_is_protected_by_run(ran: Ran) -> None:
    for guest in ran.guests.values():
        status = ran.lab.status(guest.pid)
        assert (status["state"], status["delivery"]) == ("protected", "run")
        assert environment(guest) == ran.before[guest.name]
        assert guest.name in ran.said
    assert ran.lab.status(ran.written.pid)["delivery"] == "environment"
    assert environment(ran.written) != ran.before[ran.written.name]


@pytest.mark.parametrize("name", STARTS)
def test_guest_loads_everything_twice(ran: Ran, name: str) -> None:
    guest = ran.guests[name]
    seen = {what: guest.probe_twice(what) for what in PROBES}
    assert seen == dict.fromkeys(PROBES, WORKS_TWICE), guest.log
    assert guest.lives()


def test_twin_that_was_started_by_itself_dies(ran: Ran) -> None:
    assert (ran.twin.probe("https disk"), ran.twin.probe("https disk")) == (REFUSED, DIED)


def test_guests_of_a_build_share_a_directory_if_they_search_alike(ran: Ran) -> None:
    build_id = ran.lab.status(ran.guests["first"].pid)["build_id"]
    links = places(ran.lab)
    plain = links.pop(f"qemu-{build_id}")
    (other,) = links.values()
    used = {held["id"]: {u["name"] for u in held["leases"]} for held in ran.lab.held()}
    assert used[plain.name] >= {"first", "second", "unprivileged", "own-namespace"}
    assert used[other.name] == {"elsewhere"}


def test_release_is_refused_while_one_needs_it(ran: Ran) -> None:
    done = ran.lab.holdover("release", str(ran.guests["first"].pid))
    assert (done.returncode, "still needs it" in done.stderr) == (1, True)
    assert ran.lab.status(ran.guests["second"].pid)["state"] == "protected"


def test_guest_of_the_new_build_looks_in_a_directory_of_its_own(ran: Ran) -> None:
    newer = Guest.start(ran.lab.root, "newer", wrapper=RUN)
    assert ran.lab.status(newer.pid)["state"] == "current"
    assert {newer.probe_twice(what) for what in PROBES} == {WORKS_TWICE}
    newer.kill()


def test_directory_goes_with_the_last_guest_of_its_build(ran: Ran) -> None:
    """The last test of this system: it ends them all."""
    for guest in (*ran.guests.values(), ran.written):
        assert places(ran.lab)
        guest.kill()
        ran.lab.root.run("holdover", "gc")
    assert (ran.lab.held(), places(ran.lab)) == ([], {})


# -- before anything was replaced ------------------------------------------------------------------


@pytest.fixture(scope="module")
def quiet(base: Path, scratch: Path) -> Iterator[Lab]:
    with Lab.with_holdover(base, scratch) as lab:
        yield lab


def test_guest_that_starts_during_a_transaction_is_protected_from_the_first_moment(
    quiet: Lab,
) -> None:
    apt = quiet.root.run("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!").stdout.strip()
    quiet.root.run("holdover", "hook", "dpkg", "before", apt)
    guest = Guest.start(quiet.root, "between", wrapper=RUN)
    assert quiet.status(guest.pid)["delivery"] == "run"
    (held,) = quiet.held()
    assert [user["name"] for user in held["leases"]] == ["transaction"]
    quiet.root.run("holdover", "hook", "dpkg", "after")
    (held,) = quiet.held()
    assert "between" in [user["name"] for user in held["leases"]]
    guest.kill()
    quiet.root.run("sh", "-c", f"kill {apt}; holdover gc")


def test_those_that_share_a_directory_are_released_together(quiet: Lab) -> None:
    one, two = (Guest.start(quiet.root, name, wrapper=RUN) for name in ("one", "two"))
    quiet.root.run("holdover", "protect")
    done = quiet.root.run("holdover", "release", str(one.pid)).stdout
    assert f"released with it, as they look in the same directory: two ({two.pid})" in done
    assert [quiet.status(guest.pid)["state"] for guest in (one, two)] == ["current"] * 2
    quiet.root.run("holdover", "gc")
    assert (quiet.held(), places(quiet)) == ([], {})
    for guest in (one, two):
        guest.kill()


def test_whoever_looks_in_the_directory_of_another_build_keeps_it_unused(quiet: Lab) -> None:
    """As a guest does that replaced itself by another build, and kept its environment."""
    guest = Guest.start(quiet.root, "guest", wrapper=RUN)
    build_id = quiet.status(guest.pid)["build_id"]
    image = quiet.path("/usr/bin/qemu-system-x86_64").read_bytes()
    other = quiet.path("/usr/bin/qemu-system-other")
    other.write_bytes(image.replace(bytes.fromhex(build_id), b"another build of all"))
    other.chmod(0o755)
    place = f"{PLACES}/qemu-{build_id}"
    stranger = Guest.start(
        quiet.root,
        "stranger",
        wrapper=("env", f"QEMU_MODULE_DIR={place}"),
        binary="/usr/bin/qemu-system-other",
    )
    quiet.root.run("holdover", "protect")
    seen = {g.name: quiet.status(g.pid)["delivery"] for g in (guest, stranger)}
    assert seen == {"guest": "environment", "stranger": "environment"}
    assert places(quiet) == {}
    for each in (guest, stranger):
        each.kill()
    other.unlink()
    quiet.root.run("holdover", "gc")


# -- the program comes first -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("sh -c 'exit 7'", 7, "sh: started as it is: it is no program that holdover knows"),
        ("no-such-thing", 127, "no-such-thing: there is no such program"),
        ("/srv", 126, "/srv: Permission denied"),
        ("qemu-system-i386 --version", 0, "started as it is: it is a script"),
        ("qemu-system-x86_64 --version", 0, ""),
        ("qemu-system-x86_64-microvm --version", 0, "this build of it loads no modules"),
        ("qemu-system-x86_64 --no-such-option", 1, "invalid option"),
    ],
)
def test_whatever_is_asked_for_is_started(quiet: Lab, command: str, code: int, said: str) -> None:
    done = quiet.run("sh", "-c", f"holdover run -- {command}")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert done.stderr.count("\n") <= 2


def test_directory_that_the_admin_chose_counts(quiet: Lab) -> None:
    own, protect = "QEMU_MODULE_DIR=/srv", ("protect", "--delivery", "run", "--dry-run")
    done = quiet.run("env", own, *RUN, "qemu-system-x86_64", "--version")
    assert (done.returncode, "QEMU_MODULE_DIR is set already" in done.stderr) == (0, True)
    guest = Guest.start(quiet.root, "own", wrapper=("env", own, *RUN))
    assert "run: it was not started" in quiet.holdover(*protect, str(guest.pid)).stdout
    guest.kill()


def test_setting_is_kept_to(quiet: Lab) -> None:
    asks = "-o deliveries=environment -- qemu-system-x86_64 --version"
    done = quiet.run("sh", "-c", f"holdover run {asks}")
    assert (done.returncode, "the configuration asks for that" in done.stderr) == (0, True)


def test_store_that_others_can_write_to_is_not_used(quiet: Lab) -> None:
    quiet.root.run("install", "-d", "-m", "777", "/srv/open")
    asks = "-o store.objects=/srv/open/store -- qemu-system-x86_64 --version"
    done = quiet.run("sh", "-c", f"holdover run {asks}")
    assert (done.returncode, "is not used: /srv/open: others can" in done.stderr) == (0, True)
