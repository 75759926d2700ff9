#!/bin/busybox sh
# First process of the kernel that runs after a crash: copies the crashed one's memory to a disk.
export PATH=/bin
/bin/busybox mkdir -p /bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
sleep 1
dd if=/proc/vmcore of=/dev/vda bs=1M
sync
echo copied >$rig_asks
poweroff -f
