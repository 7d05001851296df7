# SPDX-License-Identifier: Apache-2.0
"""libzypp (zypper, YaST, PackageKit of openSUSE): a commit plugin.

libzypp starts it before a commit, talks to it in frames until the commit is over, and gives up on
an answer after 30 s, which is what a hook may take by default. It is a shell script, because Python
may be replaced meanwhile, and it is for bash: dash cannot read up to a NUL, and openSUSE's /bin/sh
is bash. What it says goes to zypper's log, /var/log/zypper.log.

COMMITBEGIN comes before anything is downloaded. It lists what comes and what is removed, and not
what goes because a package of another name replaces it ("Obsoletes"): so a commit with a new
package may change anything. (Not seen is a new version of an installed package that replaces
another one for the first time.) A plugin cannot stop a commit, whatever it answers; for a veto
zypper itself is interrupted, as by ^C, and no other program that uses libzypp. Where libzypp goes
away without a COMMITEND, the script meets the end of its input.

Source: libzypp, Plugins.doc and Plugin-Commit.doc, PluginExecutor.cc, toJSON() and
TargetImpl::commit() in TargetImpl.cc; seen with libzypp 17.25.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from holdover.errors import UsageError
from holdover.packages import Change
from holdover.packages.adapter import HookFile
from holdover.packages.guard import command_word, guarded, guarded_after, having_asked
from holdover.packages.rpmdb import ask_rpm

__all__ = ["is_here", "hook_files", "read_change", "parse_steps"]

HOOK_PATH = Path("/usr/lib/zypp/plugins/commit/holdover")
_CONFIGURATION = Path("/etc/zypp")
_SCRIPT = """\
#!/bin/bash
# Written by `holdover enable`, removed by `holdover disable`.
# Whatever happens to holdover, libzypp gets its answers.
{word}
exec 3>&1 >&2
stop_zypper() {{
    read -r name </proc/$PPID/comm
    if test "$name" = zypper; then
        # where the operator reads it, and not in the log only
        echo "holdover stops zypper: hook.veto is set" >>/proc/$PPID/fd/2
        kill -INT $PPID
    else
        echo "holdover: $name does not let itself be stopped, it goes on"
    fi
}}
while IFS= read -r -d "" frame; do
    frame=${{frame#"${{frame%%[!$'\\n']*}}"}}
    case $frame in
    COMMITBEGIN*) (printf %s "${{frame#*$'\\n\\n'}}" | {{ {before}; }}) || stop_zypper ;;
    COMMITEND*) {after} ;;
    esac
    printf 'ACK\\n\\n\\0' >&3
done
{after}
exit 0
"""


def is_here() -> bool:
    return _CONFIGURATION.is_dir()


def hook_files(command: Path) -> tuple[HookFile, ...]:
    before = f"{having_asked(guarded('hook zypp before $PPID'))}; true"
    text = _SCRIPT.format(
        word=command_word(command), before=before, after=f"({guarded_after('zypp')}; true)"
    )
    return (HookFile(HOOK_PATH, text, 0o755),)


def read_change(_: Sequence[str], listing: bytes) -> Change | None:
    """A package that is new may replace others, which libzypp does not list."""
    steps = parse_steps(listing)
    owned = ask_rpm(tuple(steps))
    if any(type_ == "+" and name not in owned.installed for name, type_ in steps.items()):
        return None
    return Change(tuple(steps), owned.files)


def parse_steps(listing: bytes) -> dict[str, str]:
    """The body of COMMITBEGIN, JSON: what is done to which package, as "+", "-" or "M".

    Raises `UsageError` if it makes no sense.
    """
    try:
        steps = json.loads(listing)["TransactionStepList"]
        names = {step["solvable"]["n"]: step["type"] for step in steps}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"libzypp's list of steps makes no sense: {error!r}"[:300]) from error
    if not all(isinstance(word, str) for word in (*names, *names.values())):
        raise UsageError("libzypp's list of steps makes no sense: a word is no text")
    return names
