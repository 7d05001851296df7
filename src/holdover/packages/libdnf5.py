# SPDX-License-Identifier: Apache-2.0
"""libdnf5 (dnf 5, its daemon, PackageKit of Fedora): lines for its actions plugin, and a script.

A line with a package filter is run once for each package, 200 Pythons in an upgrade; one without
is run once and is told nothing. But an action may ask: in the JSON mode (since version 1.2.0 of the
plugin, dnf 5.2.6) the script requests the packages of the transaction on stdout and reads the
answer from stdin. An option that the plugin does not know makes dnf itself fail, so the mode is
used only if the plugin has it; else everything is protected.

pre_transaction comes after the download and all checks, right before librpm changes anything. The
request `stop` stops it there (since 1.4.0, dnf 5.2.11; an older plugin only logs it).
post_transaction comes after a transaction that succeeded: after another one the marker stays, and
the next hook makes good.

Source: libdnf5-actions(8), actions.cpp, Transaction::Impl::_run(); seen with dnf 5.4.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from holdover.errors import UsageError
from holdover.packages import Change
from holdover.packages.adapter import HookFile
from holdover.packages.guard import command_word, guarded, guarded_after, having_asked
from holdover.packages.rpmdb import change_of

__all__ = ["is_here", "hook_files", "read_change", "parse_names"]

_ACTIONS = Path("/etc/dnf/libdnf5-plugins/actions.d")
_SCRIPT_PATH = _ACTIONS / "holdover.sh"
_KNOWS_MODES = b'Unknown mode "{}"'  # what the plugin says of a mode that it does not know
_REQUEST = '{"op":"get","domain":"trans_packages","args":{"output":["name"]}}'
_STOP = "hook.veto is set"
_LINES = """\
# Written by `holdover enable`, removed by `holdover disable`.
pre_transaction:::enabled=host-only{mode}:/bin/sh {script} before{word}
post_transaction:::enabled=host-only:/bin/sh {script} after
"""
_SCRIPT = """\
# Written by `holdover enable`, removed by `holdover disable`; run by the lines beside it.
# Whatever happens to holdover, this succeeds. What is written to stdout is read by libdnf5.
{word}
exec 3>&1 >&2
case $1 in
before)
    packages=
    if test "$2" = json; then
        echo '{request}' >&3
        read -r packages
        stop='{{"op":"stop","args":{{"message":"holdover: {stop}"}}}}'
    else
        stop='stop=holdover: {stop}'
    fi
    (printf '%s\\n' "$packages" | {{ {before}; }}) || echo "$stop" >&3
    ;;
after)
    {after}
    ;;
esac
exit 0
"""


def is_here() -> bool:
    return _ACTIONS.is_dir()


def hook_files(command: Path, root: Path = Path("/")) -> tuple[HookFile, ...]:
    script = _SCRIPT.format(
        word=command_word(command),
        request=_REQUEST,
        stop=_STOP,
        before=f"{having_asked(guarded('hook libdnf5 before $PPID'))}; true",
        after=f"({guarded_after('libdnf5')}; true)",
    )
    json_mode = _knows_modes(root)
    lines = _LINES.format(
        script=_SCRIPT_PATH,
        mode=" mode=json" if json_mode else "",
        word=" json" if json_mode else "",
    )
    return (HookFile(_ACTIONS / "holdover.actions", lines), HookFile(_SCRIPT_PATH, script))


def _knows_modes(root: Path) -> bool:
    plugins = sorted(root.glob("usr/lib*/**/libdnf5/plugins/actions.so"))
    return bool(plugins) and all(_KNOWS_MODES in plugin.read_bytes() for plugin in plugins)


def read_change(_: Sequence[str], listing: bytes) -> Change | None:
    """The plugin's answer is empty if it could not be asked."""
    return change_of(parse_names(listing)) if listing.strip() else None


def parse_names(listing: bytes) -> tuple[str, ...]:
    """The plugin's answer, one line of JSON; raises `UsageError` if it makes no sense.

    What is replaced under another name is in it too.
    """
    try:
        packages = json.loads(listing)["return"]["trans_packages"]
        names = tuple(dict.fromkeys(package["name"] for package in packages))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"libdnf5's list of packages makes no sense: {error!r}"[:300]) from error
    if not all(isinstance(name, str) for name in names):
        raise UsageError("libdnf5's list of packages makes no sense: a name is no text")
    return names
