# SPDX-License-Identifier: Apache-2.0
"""Completions for bash, zsh and fish.

Process numbers and snapshots are looked up when they are asked for, by one `find` over the links in
/proc and by the names in the store: nothing of holdover is started, and nobody's files are opened.

Source: bash(1), "Programmable Completion"; zshcompsys(1); fish's complete(1).
"""

from collections.abc import Iterable

from holdover.config import SETTINGS
from holdover.programs import our_programs
from holdover.store import Store
from manual.commands import COMMON, UNSEEN, Argument, Command, Option, commands

__all__ = ["bash", "zsh", "fish"]

HEAD = """\
# SPDX-License-Identifier: Apache-2.0
# {what} for holdover(8), written by `make generated`.
"""
SEEN = tuple(command for command in commands() if command.name not in UNSEEN)
KEYS = tuple(f"{setting.key}=" for setting in SETTINGS)


def _find_processes() -> str:
    """Prints /proc/PID/exe for each process whose executable a definition names."""
    globs = [glob for program in our_programs() for glob in program.installed]
    names = " -o ".join(f"-lname '{glob}' -o -lname '{glob} (deleted)'" for glob in globs)
    return f"find /proc/[0-9]*/exe -maxdepth 0 \\( {names} \\) 2>/dev/null"


def _find_snapshots() -> str:
    """Prints the manifests in the store."""
    return f"find {Store().state}/snapshot -maxdepth 1 -name '[!.]*.json' 2>/dev/null"


PROCESSES = f"{_find_processes()} | cut -d/ -f3"
SNAPSHOTS = f"{_find_snapshots()} | sed 's,.*/,,; s,\\.json$,,'"
SOURCES = {"PID": "processes", "ID": "snapshots"}


SHARED = tuple(option for option in SEEN[0].options if option.key in COMMON)


def _names(options: Iterable[Option]) -> str:
    return " ".join(name for option in options for name in option.names)


# -- bash ------------------------------------------------------------------------------------------


def bash() -> str:
    words = [f"        {c.name}){_bash_own(c)}{_bash_arguments(c)} ;;" for c in SEEN]
    values = [line for c in SEEN for o in c.own for line in _bash_value(c, o)]
    return (
        HEAD.format(what="bash completion")
        + f"""
_holdover_processes()
{{
    {PROCESSES}
}}

_holdover_snapshots()
{{
    {SNAPSHOTS}
}}

_holdover()
{{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}}
    local words='{_names(SHARED)}' arguments=
    if ((COMP_CWORD == 1)); then
        words='--help --version' arguments='{" ".join(c.name for c in SEEN)}'
    else
        case ${{COMP_WORDS[1]}} in
{_indented(words)}
        esac
        case ${{COMP_WORDS[1]}},$before in
{_indented(values)}
            *,-o) arguments='{" ".join(KEYS)}' words= ;;
            *,=) return ;;
        esac
    fi
    [[ $current == -* ]] && arguments=$words
    COMPREPLY=($(compgen -W "$arguments" -- "$current"))
    [[ ${{COMPREPLY-}} == *= ]] && compopt -o nospace
    return 0
}}

complete -F _holdover holdover
"""
    )


def _bash_own(command: Command) -> str:
    return f" words+=' {_names(command.own)}'" if command.own else ""


def _bash_arguments(command: Command) -> str:
    return "".join(
        f' arguments="$(_holdover_{SOURCES[argument.name]})"'
        for argument in command.arguments
        if argument.name in SOURCES
    )


def _bash_value(command: Command, option: Option) -> list[str]:
    if not option.value:
        return []
    found = f"'{' '.join(option.choices)}'" if option.choices else '"$(compgen -d -- "$current")"'
    return [f"        {command.name},{name}) arguments={found} words= ;;" for name in option.names]


def _indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


# -- zsh -------------------------------------------------------------------------------------------


def zsh() -> str:
    listed = "\n".join(f"        {_zsh_quoted(f'{c.name}:{c.help}')}" for c in SEEN)
    shared = "\n".join(f"        {word}" for option in SHARED for word in _zsh_option(option))
    cases = "\n".join(_zsh_case(command) for command in SEEN)
    return (
        "#compdef holdover\n"
        + HEAD.format(what="zsh completion")
        + f"""
_holdover_processes() {{
    local -a found=(${{(f)"$({PROCESSES})"}})
    compadd -a found
}}

_holdover_snapshots() {{
    local -a found=(${{(f)"$({SNAPSHOTS})"}})
    compadd -a found
}}

_holdover_settings() {{
    compadd -S '' -- {" ".join(KEYS)}
}}

_holdover() {{
    local curcontext=$curcontext state line
    typeset -A opt_args
    local -a commands=(
{listed}
    )
    local -a common=(
{shared}
    )
    _arguments -C '(- *)'{{-h,--help}}'[show help]' '(- *)--version[show the version]' \\
        '1:command:->command' '*::argument:->argument'
    case $state in
        command) _describe command commands ;;
        argument)
            case $line[1] in
{cases}
            esac ;;
    esac
}}

_holdover "$@"
"""
    )


def _zsh_case(command: Command) -> str:
    words = ["$common", *(word for option in command.own for word in _zsh_option(option))]
    words += [_zsh_argument(n, argument) for n, argument in enumerate(command.arguments, 1)]
    joined = " \\\n                        ".join(words)
    return f"                {command.name})\n                    _arguments {joined} ;;"


def _zsh_option(option: Option) -> list[str]:
    help = option.help.replace("[", "(").replace("]", ")")
    value = ""
    if option.key == "setting":
        value = ":setting:_holdover_settings"  # without a blank behind it
    elif option.value:
        value = f":{option.value}:" + (
            f"({' '.join(option.choices)})" if option.choices else "_files"
        )
    return [_zsh_quoted(f"{name}[{help}]{value}") for name in option.names]


def _zsh_argument(position: int, argument: Argument) -> str:
    source = f"_holdover_{SOURCES[argument.name]}" if argument.name in SOURCES else ""
    return _zsh_quoted(f"{'*' if argument.many else position}:{argument.name}:{source}")


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# -- fish ------------------------------------------------------------------------------------------


def fish() -> str:
    lines = [
        f"complete -c holdover -n __fish_use_subcommand -a {c.name} -d {_fish_quoted(c.help)}"
        for c in SEEN
    ]
    everywhere = "complete -c holdover -n 'not __fish_use_subcommand'"
    lines += [f"{everywhere} {_fish_option(option)}" for option in SHARED]
    for command in SEEN:
        seen = f"complete -c holdover -n '__fish_seen_subcommand_from {command.name}'"
        lines += [f"{seen} {_fish_option(option)}" for option in command.own]
        lines += [
            f"{seen} -a '(__holdover_{SOURCES[argument.name]})'"
            for argument in command.arguments
            if argument.name in SOURCES
        ]
    listed = "\n".join(lines)
    return (
        HEAD.format(what="fish completion")
        + f"""
function __holdover_processes
    sh -c {_fish_quoted(PROCESSES)}
end

function __holdover_snapshots
    sh -c {_fish_quoted(SNAPSHOTS)}
end

complete -c holdover -f
{listed}
"""
    )


def _fish_option(option: Option) -> str:
    names = [f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names]
    value = ""
    if option.key == "setting":
        value = f" -x -a '{' '.join(KEYS)}'"
    elif option.value:
        value = f" -x -a '{' '.join(option.choices)}'" if option.choices else " -r -F"
    return f"{' '.join(names)}{value} -d {_fish_quoted(option.help)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
