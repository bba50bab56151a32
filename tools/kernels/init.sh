#!/bin/busybox sh
# shellcheck shell=dash
# The first program: finds the root of the host, and goes there. Its arguments are those of
# guest.sh, which is the first of them.
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /lower /upper /merged
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /*.ko*; do
	insmod "$module"
done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro root /lower
mount -t tmpfs tmpfs /upper
mkdir /upper/upper /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work overlay /merged
for fs in proc sys dev; do
	mount --move /$fs /merged/$fs
done
exec switch_root /merged /bin/sh "$@"
