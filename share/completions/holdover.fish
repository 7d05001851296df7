# SPDX-License-Identifier: Apache-2.0
# fish completion for holdover(8), written by `make generated`.

function __holdover_processes
    sh -c 'find /proc/[0-9]*/exe -maxdepth 0 \\( -lname \'/usr/bin/qemu-system-*\' -o -lname \'/usr/bin/qemu-system-* (deleted)\' -o -lname \'/usr/bin/kvm\' -o -lname \'/usr/bin/kvm (deleted)\' -o -lname \'/usr/libexec/qemu-kvm\' -o -lname \'/usr/libexec/qemu-kvm (deleted)\' -o -lname \'/usr/bin/qemu-storage-daemon\' -o -lname \'/usr/bin/qemu-storage-daemon (deleted)\' -o -lname \'/usr/bin/qemu-nbd\' -o -lname \'/usr/bin/qemu-nbd (deleted)\' \\) 2>/dev/null | cut -d/ -f3'
end

function __holdover_snapshots
    sh -c 'find /var/lib/holdover/snapshot -maxdepth 1 -name \'[!.]*.json\' 2>/dev/null | sed \'s,.*/,,; s,\\.json$,,\''
end

complete -c holdover -f
complete -c holdover -n __fish_use_subcommand -a status -d 'show every process that loads late, and whether it still can'
complete -c holdover -n __fish_use_subcommand -a explain -d 'say whether a module would load in a process, and why not'
complete -c holdover -n __fish_use_subcommand -a preview -d 'show what the pending upgrade would break, and what would be held; changes nothing'
complete -c holdover -n __fish_use_subcommand -a protect -d 'hold the modules of live processes, and make these find them'
complete -c holdover -n __fish_use_subcommand -a rehearse -d 'late-load what is held for a process in a scratch process, to see that it works'
complete -c holdover -n __fish_use_subcommand -a release -d 'take a delivery back'
complete -c holdover -n __fish_use_subcommand -a defuse -d 'make a process that cannot be protected refuse late loads and live'
complete -c holdover -n __fish_use_subcommand -a list -d 'show what is held, for whom, and how many bytes only that keeps'
complete -c holdover -n __fish_use_subcommand -a show -d 'show one snapshot, file by file, and read it all to verify it'
complete -c holdover -n __fish_use_subcommand -a pin -d 'keep a snapshot, whether it is needed or not'
complete -c holdover -n __fish_use_subcommand -a unpin -d 'let a snapshot go once nobody needs it'
complete -c holdover -n __fish_use_subcommand -a gc -d 'remove what no live process needs'
complete -c holdover -n __fish_use_subcommand -a doctor -d 'try what holdover needs on this machine, and say what to change'
complete -c holdover -n __fish_use_subcommand -a enable -d 'install the package manager hooks'
complete -c holdover -n __fish_use_subcommand -a disable -d 'remove the package manager hooks'
complete -c holdover -n __fish_use_subcommand -a demo -d 'tell the whole story on throwaway guests in a throwaway root'
complete -c holdover -n 'not __fish_use_subcommand' -s h -l help -d 'show this help message and exit'
complete -c holdover -n 'not __fish_use_subcommand' -l json -d 'print JSON instead of a table'
complete -c holdover -n 'not __fish_use_subcommand' -s o -x -a 'programs.disabled= deliveries= store.objects= store.state= store.budget= lock.timeout= hook.budget= hook.veto= look.budget= pins.lifetime= timer.protect= libvirt.protect= journal.enabled= metrics.directory=' -d 'change a setting for this once, see holdover.toml(5)'
complete -c holdover -n '__fish_seen_subcommand_from status' -s v -l verbose -d 'show each module as well'
complete -c holdover -n '__fish_seen_subcommand_from status' -a '(__holdover_processes)'
complete -c holdover -n '__fish_seen_subcommand_from explain' -s v -l verbose -d 'show the linker\'s way'
complete -c holdover -n '__fish_seen_subcommand_from explain' -a '(__holdover_processes)'
complete -c holdover -n '__fish_seen_subcommand_from preview' -s v -l verbose -d 'show each module as well'
complete -c holdover -n '__fish_seen_subcommand_from protect' -l dry-run -d 'say what would be done, and why'
complete -c holdover -n '__fish_seen_subcommand_from protect' -l rehearse -d 'deliver only what loads in a scratch process, see `holdover rehearse`'
complete -c holdover -n '__fish_seen_subcommand_from protect' -l delivery -x -a 'environment mount fallback-dir' -d 'only this one; overrides the setting deliveries'
complete -c holdover -n '__fish_seen_subcommand_from protect' -a '(__holdover_processes)'
complete -c holdover -n '__fish_seen_subcommand_from rehearse' -a '(__holdover_processes)'
complete -c holdover -n '__fish_seen_subcommand_from release' -l force -d 'even if a late load may kill it'
complete -c holdover -n '__fish_seen_subcommand_from release' -a '(__holdover_processes)'
complete -c holdover -n '__fish_seen_subcommand_from defuse' -l dry-run -d 'say what would be done, and why'
complete -c holdover -n '__fish_seen_subcommand_from defuse' -a '(__holdover_processes)'
complete -c holdover -n '__fish_seen_subcommand_from show' -a '(__holdover_snapshots)'
complete -c holdover -n '__fish_seen_subcommand_from pin' -a '(__holdover_snapshots)'
complete -c holdover -n '__fish_seen_subcommand_from unpin' -a '(__holdover_snapshots)'
complete -c holdover -n '__fish_seen_subcommand_from gc' -l dry-run -d 'say what would go'
complete -c holdover -n '__fish_seen_subcommand_from enable' -l refresh -d 'only bring up to date what is enabled already'
complete -c holdover -n '__fish_seen_subcommand_from disable' -l release -d 'and let go of every process that can do without holdover, and of what is held for it'
complete -c holdover -n '__fish_seen_subcommand_from demo' -l cache -r -F -d 'where to keep the throwaway root\'s packages between runs'
