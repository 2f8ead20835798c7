#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The guest's init. Kernel command line: noballoon = without the balloon driver; eat=N = fill N MiB with random pages.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for driver in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci; do insmod "/modules/$driver.ko"; done
grep -q noballoon /proc/cmdline || insmod /modules/virtio_balloon.ko
mount -t tmpfs -o size=90% tmp /tmp
eat=$(sed -n 's/.*eat=\([0-9]*\).*/\1/p' /proc/cmdline)
[ -z "$eat" ] || dd if=/dev/urandom of=/tmp/eaten bs=1M count="$eat" 2>/dev/null
echo READY >/dev/ttyS0
# A root shell on the serial line, so that tests can make a guest use memory or crash.
setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1' &
while :; do sleep 3600; done
