# SPDX-License-Identifier: Apache-2.0
"""What calls holdover besides package managers: a timer, and libvirt as it starts a guest.

The files are in data/, for packages to install; where none did, `holdover enable` writes them.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from holdover.errors import CommandError, RefusedError
from holdover.packages.adapter import HookFile
from holdover.packages.guard import command_word
from holdover.run import run

__all__ = ["service_files", "all_service_files", "start", "stop", "tidy", "timer_state", "advice"]

TIMER = "holdover.timer"
SERVICE = "holdover.service"
_UNITS = (SERVICE, TIMER)
_PACKAGED = Path("/usr/lib/systemd/system")
_OWN_UNITS = Path("/etc/systemd/system")
_TMPFILES = Path("/etc/tmpfiles.d/holdover.conf")
_LIBVIRT = Path("/etc/libvirt")
_LIBVIRT_HOOK = _LIBVIRT / "hooks/qemu.d/holdover"
_CRON = Path("/etc/cron.d/holdover")
_LIBVIRT_DAEMONS = ("libvirtd.service", "virtqemud.service")
_INSTALLED = "/usr/bin/holdover"


def service_files(command: Path) -> Iterator[HookFile]:
    """What this system can use and no package has brought."""
    command_word(command)  # raises `UsageError` for a path that cannot be written there
    if _LIBVIRT.is_dir():
        yield _file(_LIBVIRT_HOOK, "libvirt/holdover", command, 0o755)
    if _has_systemd():
        if not (_PACKAGED / TIMER).exists():
            yield from _systemd_files(command)
    elif _has_cron():
        yield _file(_CRON, "cron/holdover", command)


def all_service_files() -> Iterator[HookFile]:
    """Whatever may have been written at another time."""
    yield _file(_LIBVIRT_HOOK, "libvirt/holdover", Path(_INSTALLED), 0o755)
    yield from _systemd_files(Path(_INSTALLED))
    yield _file(_CRON, "cron/holdover", Path(_INSTALLED))


def _systemd_files(command: Path) -> Iterator[HookFile]:
    for unit in _UNITS:
        yield _file(_OWN_UNITS / unit, f"systemd/{unit}", command)
    yield _file(_TMPFILES, "tmpfiles/holdover.conf", command)


def _file(path: Path, name: str, command: Path, mode: int = 0o644) -> HookFile:
    text = files("holdover").joinpath("data", name).read_text()
    return HookFile(path, text.replace(_INSTALLED, str(command)), mode)


def _has_systemd() -> bool:
    return shutil.which("systemctl") is not None


def _is_booted() -> bool:
    """sd_booted(3)"""
    return Path("/run/systemd/system").is_dir()


def _has_cron() -> bool:
    return _CRON.parent.is_dir() and any(map(shutil.which, ("cron", "crond")))


def start(
    changes: Iterable[tuple[Path, str]], *, again: bool = False
) -> Iterator[tuple[Path, str]]:
    """Make what was written take effect; returns what was done to whom.

    With `again` a timer that is there already and disabled stays so: an operator did that.
    """
    changes = list(changes)
    changed = {path for path, change in changes if change in ("written", "updated")}
    is_new = (_OWN_UNITS / TIMER, "written") in changes
    if _has_systemd() and not (again and not is_new and _is_disabled()):
        yield Path(TIMER), _enable_timer()
    if _LIBVIRT_HOOK in changed and _is_booted():
        for daemon in _LIBVIRT_DAEMONS:
            if _succeeds("systemctl", "is-active", "--quiet", daemon):
                # it looks for hooks when it starts and when it reloads; guests do not notice
                yield Path(daemon), _said("reloaded", "systemctl", "reload", daemon)


def _is_disabled() -> bool:
    return run("systemctl", "is-enabled", TIMER, check=False).stdout.strip() == "disabled"


def _enable_timer() -> str:
    if not _is_booted():
        return _said("enabled", "systemctl", "enable", TIMER)
    run("systemctl", "daemon-reload", check=False)
    return _said("enabled and started", "systemctl", "enable", "--now", TIMER)


def stop() -> Iterator[tuple[Path, str]]:
    """Before the files go. A run that is under way would protect again who is released next."""
    if _has_systemd() and any((d / TIMER).exists() for d in (_OWN_UNITS, _PACKAGED)):
        now = ("--now",) if _is_booted() else ()
        yield Path(TIMER), _said("disabled", "systemctl", "disable", *now, TIMER)
        if _is_booted():
            run("systemctl", "stop", SERVICE, check=False)


def tidy() -> None:
    """After the files went."""
    if _has_systemd() and _is_booted():
        run("systemctl", "daemon-reload", check=False)
    with suppress(OSError):  # it is not empty, or was never there
        _LIBVIRT_HOOK.parent.rmdir()


def timer_state() -> str:
    """What calls holdover between transactions; raises `RefusedError` if nothing does."""
    if _has_systemd():
        if _succeeds("systemctl", "is-enabled", "--quiet", TIMER):
            return TIMER
        raise RefusedError(f"{TIMER} is not enabled", hint=f"systemctl enable --now {TIMER}")
    if _CRON.exists():
        return str(_CRON)
    raise RefusedError(
        "nothing looks after guests between transactions",
        hint="run `holdover enable`, or call `holdover hook timer` every few minutes",
    )


def advice() -> Iterator[str]:
    """What is left for the operator to do."""
    if not _has_systemd() and not _has_cron():
        yield "there is neither systemd nor cron: call `holdover hook timer` every few minutes"
    if _LIBVIRT_HOOK.exists() and not _is_booted():
        yield "libvirt looks for hooks when it starts or reloads: send SIGHUP to its daemon"


def _succeeds(*command: str) -> bool:
    try:
        return run(*command, check=False).returncode == 0
    except CommandError:
        return False


def _said(done: str, *command: str) -> str:
    """`done`, or why not: what is written already is not taken back for that."""
    try:
        run(*command)
    except CommandError as error:
        return str(error)
    return done
