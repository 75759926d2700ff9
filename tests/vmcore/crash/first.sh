#!/bin/busybox sh
# The guest's first process: writes down the head of /proc/kcore, then crashes the kernel.
export PATH=/bin
/bin/busybox mkdir -p /bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
i=0
while [ ! -e /dev/nvme0n2 ] && [ $i -lt 50 ]; do sleep 0.2; i=$((i + 1)); done
dd if=/proc/kcore of=/dev/nvme0n2 bs=4096 count=16
/load /vmlinuz /second.cpio "console=ttyS0 nr_cpus=1 irqpoll reset_devices rdinit=/init" || poweroff -f
sync
echo c >/proc/sysrq-trigger
