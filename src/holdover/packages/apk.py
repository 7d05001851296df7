# SPDX-License-Identifier: Apache-2.0
"""apk of Alpine: a commit hook, which is told the stage and nothing else.

The hook runs before anything is written and after everything is; if it fails before, the commit is
stopped. So do the hooks of apk 2 and 3.

Source: apk(8), commit_hooks.d; run_commit_hooks() in commit.c.
"""

from collections.abc import Sequence
from pathlib import Path

from holdover.packages.adapter import HookFile
from holdover.packages.guard import command_word, guarded_after, guarded_without_list

__all__ = ["is_here", "hook_files", "read_change"]

_CONFIGURATION = Path("/etc/apk")
HOOK_PATH = _CONFIGURATION / "commit_hooks.d/holdover"
_SCRIPT = """\
#!/bin/sh
# Written by `holdover enable`, removed by `holdover disable`.
# Whatever happens to holdover, it succeeds; only a veto stops the commit.
{word}
case $1 in
pre-commit) {before} ;;
post-commit) {after} ;;
esac
exit 0
"""


def is_here() -> bool:
    return _CONFIGURATION.is_dir()


def hook_files(command: Path) -> tuple[HookFile, ...]:
    text = _SCRIPT.format(
        word=command_word(command),
        before=guarded_without_list("apk"),
        after=guarded_after("apk"),
    )
    return (HookFile(HOOK_PATH, text, 0o755),)


def read_change(_words: Sequence[str], _listing: bytes) -> None:
    return None
