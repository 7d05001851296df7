# SPDX-License-Identifier: Apache-2.0
# bash completion for holdover(8), written by `make generated`.

_holdover_processes()
{
    find /proc/[0-9]*/exe -maxdepth 0 \( -lname '/usr/lib/postgresql*/bin/postgres' -o -lname '/usr/lib/postgresql*/bin/postgres (deleted)' -o -lname '/usr/lib/postgresql/*/bin/postgres' -o -lname '/usr/lib/postgresql/*/bin/postgres (deleted)' -o -lname '/usr/pgsql-*/bin/postgres' -o -lname '/usr/pgsql-*/bin/postgres (deleted)' -o -lname '/usr/bin/postgres' -o -lname '/usr/bin/postgres (deleted)' -o -lname '/usr/libexec/postgresql*/postgres' -o -lname '/usr/libexec/postgresql*/postgres (deleted)' -o -lname '/usr/bin/qemu-system-*' -o -lname '/usr/bin/qemu-system-* (deleted)' -o -lname '/usr/bin/kvm' -o -lname '/usr/bin/kvm (deleted)' -o -lname '/usr/libexec/qemu-kvm' -o -lname '/usr/libexec/qemu-kvm (deleted)' -o -lname '/usr/bin/qemu-storage-daemon' -o -lname '/usr/bin/qemu-storage-daemon (deleted)' -o -lname '/usr/bin/qemu-nbd' -o -lname '/usr/bin/qemu-nbd (deleted)' \) 2>/dev/null | cut -d/ -f3
}

_holdover_snapshots()
{
    find /var/lib/holdover/snapshot -maxdepth 1 -name '[!.]*.json' 2>/dev/null | sed 's,.*/,,; s,\.json$,,'
}

_holdover()
{
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    local words='-h --help --json -o' arguments=
    if ((COMP_CWORD == 1)); then
        words='--help --version' arguments='status explain preview protect rehearse release defuse rescue list show pin unpin gc doctor enable disable demo run'
    else
        case ${COMP_WORDS[1]} in
            status) words+=' -v --verbose' arguments="$(_holdover_processes)" ;;
            explain) words+=' -v --verbose' arguments="$(_holdover_processes)" ;;
            preview) words+=' -v --verbose' ;;
            protect) words+=' --dry-run --rehearse --delivery' arguments="$(_holdover_processes)" ;;
            rehearse) arguments="$(_holdover_processes)" ;;
            release) words+=' --force' arguments="$(_holdover_processes)" ;;
            defuse) words+=' --dry-run' arguments="$(_holdover_processes)" ;;
            rescue) words+=' --all --from --no-rehearsal -v --verbose' arguments="$(_holdover_processes)" ;;
            list) words+=' -v --verbose' ;;
            show) arguments="$(_holdover_snapshots)" ;;
            pin) arguments="$(_holdover_snapshots)" ;;
            unpin) arguments="$(_holdover_snapshots)" ;;
            gc) words+=' --dry-run' ;;
            doctor) ;;
            enable) words+=' --refresh' ;;
            disable) words+=' --release' ;;
            demo) words+=' --cache' ;;
            run) ;;
        esac
        case ${COMP_WORDS[1]},$before in
            protect,--delivery) arguments='run environment variable mount fallback-dir preload' words= ;;
            rescue,--from) arguments="$(compgen -d -- "$current")" words= ;;
            demo,--cache) arguments="$(compgen -d -- "$current")" words= ;;
            *,-o) arguments='programs.disabled= deliveries= store.objects= store.state= store.budget= lock.timeout= hook.budget= hook.veto= look.budget= pins.lifetime= timer.protect= rescue.network= rescue.releases= rescue.snapshot_archive= rescue.debuginfod= libvirt.protect= journal.enabled= metrics.directory=' words= ;;
            *,=) return ;;
        esac
    fi
    [[ $current == -* ]] && arguments=$words
    COMPREPLY=($(compgen -W "$arguments" -- "$current"))
    [[ ${COMPREPLY-} == *= ]] && compopt -o nospace
    return 0
}

complete -F _holdover holdover
