#!/bin/busybox sh
# The guest's first process: gives the allocators work, prints what the kernel says about itself
# (on one serial line), and asks for a dump (on another), as often as it is told to. What it is
# told comes from the kernel's command line.
export PATH=/bin
/bin/busybox mkdir -p /bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t debugfs debug /sys/kernel/debug 2>/dev/null
# Addresses as they are, for root.
echo 1 >/proc/sys/kernel/kptr_restrict
echo 0 >/proc/sys/kernel/printk
TEXTS=$rig_texts
LEAKS=/sys/kernel/debug/kmemleak
# Open from now on: an answer that comes while nobody has the line open is lost.
exec 3<>$rig_asks
for line in $TEXTS $rig_asks; do stty -F $line raw -echo 2>/dev/null; done

section() {
    echo "==> $1"
    cat "$2" 2>/dev/null
}

work() {
    i=0
    while [ $i -lt 30 ]; do
        mkdir -p /tmp/work/$i
        j=0
        while [ $j -lt 40 ]; do
            : >/tmp/work/$i/a-file-whose-name-is-too-long-to-lie-in-a-dentry-$j
            j=$((j + 1))
        done
        i=$((i + 1))
    done
    # Holes: some of what was made goes again.
    rm -rf /tmp/work/3 /tmp/work/14 /tmp/work/15
    find /sys/class /sys/bus /proc/self /proc/sys >/dev/null 2>&1
    dd if=/dev/zero of=/tmp/blob bs=64k count=64 2>/dev/null
    ifconfig lo 127.0.0.1 up 2>/dev/null
    i=0
    while [ $i -lt 20 ]; do
        sleep 100000 &
        nc -l -p $((7000 + i)) >/dev/null 2>&1 &
        i=$((i + 1))
    done
    mkfifo /tmp/fifo
    cat /tmp/fifo >/dev/null &
    i=0
    while [ $i -lt 60 ]; do
        (: | :)
        i=$((i + 1))
    done
}

# What takes long to print comes first, what changes by itself last.
texts() {
    echo "==> begin $1"
    section cmdline /proc/cmdline
    section version /proc/version
    section modules /proc/modules
    section iomem /proc/iomem
    section kallsyms /proc/kallsyms
    echo "==> slab"
    (cd /sys/kernel/slab && grep . */object_size */slab_size */objs_per_slab */order \
        */cpu_slabs */total_objects */objects 2>/dev/null)
    echo "==> tasks"
    ps -o pid,ppid,stat,comm
    echo "==> dmesg"
    dmesg
    section page_owner /sys/kernel/debug/page_owner
    echo "==> traces"
    (cd /sys/kernel/debug/slab 2>/dev/null && grep . */alloc_traces 2>/dev/null)
    section zoneinfo /proc/zoneinfo
    section vmstat /proc/vmstat
    section meminfo /proc/meminfo
    section vmallocinfo /proc/vmallocinfo
    if [ "$1" = shrunk ]; then
        # Takes the processors' own slabs back: what slabinfo then counts is exact.
        for file in /sys/kernel/slab/*/shrink; do echo 1 >$file; done
    fi
    cat /proc/slabinfo >/tmp/slabinfo
    section slabinfo /tmp/slabinfo
    echo "==> end $1"
}

# Twice: what is white for the first time is only remembered, or modified since.
scan() {
    echo scan >$LEAKS
    sleep 1
    echo scan >$LEAKS
}

snapshot() {
    texts "$1" >$TEXTS
    if [ -e $LEAKS ]; then
        sleep 1
        echo scan >$LEAKS
    fi
    echo "dump $1" >&3
    read -r answer <&3
    if [ -e $LEAKS ]; then
        # Printed afterwards, so that as little as can be comes between the scan and the dump.
        {
            echo "==> begin $1"
            section kmemleak $LEAKS
            echo "==> end $1"
        } >$TEXTS
    fi
}

load() {
    for module in $(cat $1/order 2>/dev/null); do
        insmod $1/$module.ko || echo "RIG insmod $module failed"
    done
}

load /modules
work
cat /proc/slabinfo >/tmp/slabinfo
if [ -e $LEAKS ]; then
    # Objects that are younger than five seconds are not reported. What the kernel itself seems to
    # lose is taken back, then modules that lose memory come.
    sleep 6
    scan
    echo clear >$LEAKS
    load /leaks
    sleep 7
    scan
else
    sleep 1
fi
for name in ${rig_snapshots:-plain}; do
    if [ $name = unloaded ]; then
        # What modules held and did not free is lost now.
        for module in $(cat /leaks/order); do rmmod $module; done
        sleep 7
        scan
    fi
    if [ $name = crash ]; then
        words="console=ttyS0 rdinit=/init nr_cpus=1 reset_devices panic=-1 rig_asks=$rig_asks"
        /crash/load /crash/kernel /crash/initramfs "$words"
        texts $name >$TEXTS
        echo c >/proc/sysrq-trigger
    fi
    snapshot $name
done
echo "done" >&3
poweroff -f
