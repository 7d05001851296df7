# SPDX-License-Identifier: Apache-2.0
"""dnf and zypper with caches, logs and a state of their own, and without their plugins.

Sources: dnf(8), dnf.conf(5), dnf4's and dnf5's `download`; zypper(8); ZYPP_LOGFILE.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdover.errors import CommandError
from holdover.run import run

__all__ = ["Manager", "find_manager", "INDEX"]

INDEX = "*primary.xml*"
_TIMEOUT = 1800.0  # seconds for one command
_DNF_REPOSITORIES, _ZYPP_REPOSITORIES = Path("/etc/yum.repos.d"), Path("/etc/zypp/repos.d")


@dataclass(frozen=True, slots=True)
class Manager:
    """One that is here. `private` is a directory for all that it writes."""

    name: str
    private: Path
    release: str = ""
    """Of the distribution, instead of that of the machine; dnf only."""

    @property
    def repositories(self) -> Path:
        return _ZYPP_REPOSITORIES if self.name == "zypper" else _DNF_REPOSITORIES

    @property
    def host_cache(self) -> Path:
        """Where the machine keeps indexes and package files; only read."""
        caches = {"zypper": "zypp", "dnf": "dnf", "dnf5": "libdnf5"}
        return Path("/var/cache", caches[self.name])

    @property
    def cache(self) -> Path:
        return self.private / "cache"

    def refresh(self) -> str:
        """Download the indexes; says what went wrong."""
        words = ("refresh",) if self.name == "zypper" else ("makecache",)
        try:
            self._run(*words)
        except CommandError as error:
            return str(error)
        return ""

    @property
    def downloads(self) -> Path:
        return self.private / "packages"

    def download(self, packages: Sequence[str], *, dependencies: bool) -> str:
        """Download packages, each NAME-VERSION-RELEASE, to `downloads`; what was said of problems.

        The manager compares them with the index; only zypper looks at signatures. Raises
        `CommandError`.
        """
        target = self.downloads
        if self.name == "zypper":
            quick, resolving = ["download"], ["install", "--download-only", "--no-recommends"]
            return self._run(*(resolving if dependencies else quick), *packages)
        if self.name == "dnf" and not self._has_download():
            root = (f"--installroot={self.private}/root", f"--setopt=reposdir={self.repositories}")
            how = ("install", "--downloadonly", f"--downloaddir={target}", "--nogpgcheck")
            return self._run(
                *root, *how, *packages
            )  # a root without keys: signatures are for later
        all_of_them = ("--resolve", "--alldeps") if dependencies else ()
        return self._run("download", *all_of_them, f"--destdir={target}", *packages)

    def _run(self, *words: str) -> str:
        if self.name == "zypper":
            self._bring_keys()
        prefix = self._zypper() if self.name == "zypper" else self._dnf()
        return run(*prefix, *words, timeout=_TIMEOUT).stderr.strip()

    def _bring_keys(self) -> None:
        """zypper trusts the keys in the database of the root that it works on."""
        root, keys = self.private / "root", self.private / "keys.asc"
        if root.exists():
            return
        root.mkdir(parents=True)
        trusted = run("rpm", "--query", "gpg-pubkey", "--qf", r"%{DESCRIPTION}\n", check=False)
        if "-----BEGIN PGP" in trusted.stdout:
            keys.write_text(trusted.stdout)
            run("rpmkeys", "--root", root, "--import", keys)

    def _zypper(self) -> tuple[str, ...]:
        log = f"ZYPP_LOGFILE={self.private}/zypper.log"
        return (
            *("env", log, "zypper", "--non-interactive", "--quiet"),
            *("--root", f"{self.private}/root", "--reposd-dir", str(_ZYPP_REPOSITORIES)),
            *("--cache-dir", str(self.cache), "--pkg-cache-dir", str(self.downloads)),
        )

    def _dnf(self) -> tuple[str, ...]:
        state = {
            "cachedir": self.cache,
            "persistdir": self.private / "persist",
            "logdir": self.private / "log",
            "install_weak_deps": "False",
        }
        if self.name == "dnf5":
            state |= {"system_cachedir": self.cache, "system_state_dir": self.private / "state"}
        options = (f"--setopt={key}={value}" for key, value in state.items())
        none_but_download = ("--disableplugin=*", "--enableplugin=download")
        plugins = ("--no-plugins",) if self.name == "dnf5" else none_but_download
        release = (f"--releasever={self.release}",) if self.release else ()
        return (self.name, "--quiet", "--assumeyes", *plugins, *options, *release)

    def _has_download(self) -> bool:
        """dnf 4 has it as a plugin, which need not be installed."""
        return run(*self._dnf(), "download", "--help", check=False).returncode == 0


def find_manager(private: Path) -> Manager:
    """The one with repositories; raises `CommandError` if there is none."""
    for name in ("dnf5", "dnf", "zypper"):
        manager = Manager(name, private)
        if shutil.which(name) and any(manager.repositories.glob("*.repo")):
            return manager
    raise CommandError("neither dnf nor zypper is here with repositories to fetch packages from")
