# SPDX-License-Identifier: Apache-2.0
"""dpkg without apt: `dpkg -i`, `dpkg --purge`. It does not say what it is about to change.

Source: dpkg(1), --pre-invoke and DPKG_HOOK_ACTION. DPKG_FRONTEND_LOCKED is set by apt and all that
use its library, which call holdover themselves; an upgrade of a distribution starts dpkg 200 times.
Others set it too (an operator whose lock is taken, tools that unpack one file): so whoever set it
also has to be one that has called.
"""

from collections.abc import Sequence
from pathlib import Path

from holdover.packages.adapter import HookFile
from holdover.packages.guard import (
    command_word,
    guarded_after,
    guarded_without_list,
    unless_asked_above,
)

__all__ = ["is_here", "hook_files", "read_change"]

HOOK_PATH = Path("/etc/dpkg/dpkg.cfg.d/holdover")
_CHANGING = "unpack|install|remove|purge"


def is_here() -> bool:
    return HOOK_PATH.parent.is_dir()


def hook_files(command: Path) -> tuple[HookFile, ...]:
    """What is for the shell to decide costs a millisecond: whose dpkg it is, and what it does."""
    word, apt = command_word(command), 'test -n "$DPKG_FRONTEND_LOCKED"'
    before = f"case $DPKG_HOOK_ACTION in {_CHANGING}) {guarded_without_list('dpkg')};; esac"
    after = guarded_after("dpkg")
    text = f"""\
# Written by `holdover enable`, removed by `holdover disable`.
# Whatever happens to holdover, these lines succeed: dpkg stops at a hook that fails.
pre-invoke={word} {unless_asked_above(apt, before)}; true
post-invoke={word} {unless_asked_above(apt, after)}; true
"""
    return (HookFile(HOOK_PATH, text),)


def read_change(_words: Sequence[str], _listing: bytes) -> None:
    return None
