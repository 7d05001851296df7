# SPDX-License-Identifier: Apache-2.0
"""What the guest system does that `lab.system` builds: it works, checks its work, and tells."""

__all__ = ["BLOCK", "INIT", "MODULES", "SLOTS"]

MODULES = ("virtio_pci", "virtio_blk", "virtio_net")
BLOCK = 128 << 10  # bytes of a block
SLOTS = 64  # blocks on the disk

# What it says on its console, a line each, `error` first if something is wrong:
#   writing SLOT SHA256     a block is about to be written to its place on the disk
#   wrote SLOT SHA256       the disk has it, as it promises (fsync)
#   read SLOT               it was read back from the disk itself; before it is replaced, once more
#   fetched                 a file came over the network
#   late SHA256             of a whole second disk, as soon as there is one
# The second serial port has the heartbeat: number and seconds of the clock. SUM, of the file that
# is fetched, comes from the kernel's command line.
INIT = rf"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "error insmod $module"
done
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0 || echo "error no network"

# no program is started for a beat: that would take as long as the beat
beat() {{
    mkfifo /tmp/nothing
    exec 3<>/tmp/nothing
    number=0
    while :; do
        number=$((number + 1))
        echo "$number $EPOCHREALTIME"
        read -t 0.02 -u 3 nothing
    done
}}

sum_of() {{
    sum=$(sha256sum)
    echo "${{sum%% *}}"
}}

# $1: slot, $2: the sum that a block had when it was written there
check() {{
    echo 3 >/proc/sys/vm/drop_caches
    found=$(dd if=/dev/vda bs={BLOCK} skip="$1" count=1 iflag=direct 2>/tmp/said | sum_of)
    if test "$found" = "$2"; then
        echo "read $1"
    else
        echo "error disk: slot $1 has $found, not $2" $(cat /tmp/said)
    fi
}}

write() {{
    head -c {BLOCK} /dev/urandom >/tmp/block
    sum=$(sum_of </tmp/block)
    echo "writing $1 $sum"
    if dd if=/tmp/block of=/dev/vda bs={BLOCK} seek="$1" conv=fsync,notrunc 2>/tmp/said; then
        echo "wrote $1 $sum"
        echo "$sum" >"/tmp/sum.$1"
        check "$1" "$sum"
    else
        echo "error disk: slot $1 is not written" $(cat /tmp/said)
    fi
}}

disk() {{
    number=0
    while :; do
        slot=$((number % {SLOTS}))
        test ! -e "/tmp/sum.$slot" || check "$slot" "$(cat "/tmp/sum.$slot")"
        write "$slot"
        number=$((number + 1))
        usleep 200000
    done
}}

network() {{
    while :; do
        found=$(wget -q -O - http://10.0.2.2:80/disk.img 2>/tmp/wget | sum_of)
        if test "$found" = "$SUM"; then
            echo "fetched"
        else
            echo "error network: $found" $(cat /tmp/wget)
        fi
        usleep 200000
    done
}}

late() {{
    until test -b /dev/vdb; do
        usleep 2000000
    done
    echo "late $(sum_of </dev/vdb)"
}}

beat >/dev/ttyS1 &
disk &
network &
late &
wait
"""
