# SPDX-License-Identifier: Apache-2.0
"""Real package managers, and how a test makes each of them call holdover and replace files.

They are installed in the base of lab/repacked.py, of whose packages they know versions 1 and 2.
"""

from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from holdover.packages.rpm import spec_fragment
from lab.chroot import Lab

__all__ = ["MANAGERS", "Manager", "install_triggers", "note_calls"]


@dataclass(frozen=True, slots=True)
class Manager:
    """One that replaces files; `upgrade` ends where the packages' names or files go."""

    name: str
    upgrade: tuple[str, ...]
    files: str = ""
    """What it wants instead of a name: a pattern with {} for it."""
    query: tuple[str, ...] = ("rpm", "--query", "--queryformat", "%{VERSION}")
    stops_for_a_veto: bool = True

    def replace(self, lab: Lab, *packages: str) -> CompletedProcess[str]:
        """Upgrade them to version 2, whatever the exit code."""
        if not self.files:
            return lab.run(*self.upgrade, *packages)
        found = [
            path for name in packages for path in lab.path("/srv").glob(self.files.format(name))
        ]
        inside = (f"/{path.relative_to(lab.root.inside)}" for path in found)
        return lab.run(*self.upgrade, *inside)

    def has_replaced(self, lab: Lab, package: str) -> bool:
        return "2" in lab.run(*self.query, package).stdout.removeprefix(package)

    def enable(self, lab: Lab) -> None:
        """As an operator would; for rpm, by installing a package."""
        if self.name == "rpm":
            install_triggers(lab)
        else:
            lab.root.run("holdover", "enable")


MANAGERS = {
    manager.name: manager
    for manager in (
        Manager("rpm", ("rpm", "--upgrade"), files="rpm/*/{}-2-1.*.rpm", stops_for_a_veto=False),
        Manager("dnf", ("dnf", "--assumeyes", "--releasever=1", "upgrade")),
        Manager("zypper", ("zypper", "--non-interactive", "update")),
        Manager(
            "pacman", ("pacman", "--sync", "--refresh", "--noconfirm"), query=("pacman", "--query")
        ),
    )
}

_TRIGGERS = """\
Name: holdover-triggers
Version: 1
Release: 1
Summary: The part of holdover's package that is tested here
License: Apache-2.0
BuildArch: noarch
AutoReqProv: no
%description
For tests.
%files
"""


def install_triggers(lab: Lab, command: str = "/usr/bin/holdover") -> None:
    """Build and install a package with holdover's file triggers and nothing else."""
    fragment = spec_fragment(Path(command))
    lab.root.run("tee", "/srv/triggers.spec", text=f"{_TRIGGERS}{fragment}")
    build = ("rpmbuild", "--quiet", "-bb", "--define", "_rpmdir /srv", "/srv/triggers.spec")
    lab.root.run(*build)
    lab.root.run("rpm", "--install", "--nodeps", "/srv/noarch/holdover-triggers-1-1.noarch.rpm")


def note_calls(lab: Lab) -> Path:
    """From now on each call of holdover leaves a line in the file that is returned."""
    command, moved = lab.path("/usr/bin/holdover"), lab.path("/usr/bin/holdover-itself")
    command.rename(moved)
    command.write_text('#!/bin/sh\necho "$*" >>/run/calls\nexec /usr/bin/holdover-itself "$@"\n')
    command.chmod(0o755)
    calls = lab.path("/run/calls")
    calls.touch()
    return calls
