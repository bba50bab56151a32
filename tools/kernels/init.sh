#!/bin/busybox sh
# shellcheck shell=dash
# The first program: finds the root of the host, and goes there. Its arguments are those of
# guest.sh, which is the first of them.
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /lower /memory /upper /merged
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /*.ko; do
	insmod "$module"
done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro root /lower
# Time jumps while the machine waits for the host, even for the path of a file that it has read before: what may
# run is in memory.
mount -t tmpfs tmpfs /memory
cd /lower && {
	ls -d bin sbin lib lib64
	find usr/bin usr/sbin usr/lib/*-linux-gnu/xtables etc '(' ! -type f -o -size -500k ')'
	cat /files
} | sort -u | cpio -o -H newc 2>/dev/null | (cd /memory && cpio -idm 2>/dev/null)
cd /
mount -t tmpfs tmpfs /upper
mkdir /upper/upper /upper/work
mount -t overlay -o lowerdir=/memory:/lower,upperdir=/upper/upper,workdir=/upper/work overlay /merged
for fs in proc sys dev; do
	mount --move /$fs /merged/$fs
done
exec switch_root /merged /bin/sh "$@"
