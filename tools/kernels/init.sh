#!/bin/busybox sh
# shellcheck shell=dash
# The first program: finds the root of the host, and goes there. Its arguments are those of
# guest.sh, which is the first of them.
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /lower /programs /upper /merged
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo 0 >/proc/sys/kernel/hung_task_timeout_secs # time runs on while programs wait for the host
for module in /*.ko; do
	insmod "$module"
done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro root /lower
# Time jumps while the machine waits for the host, even for the path of a file that it has read before: what may
# run is in memory.
mount -t tmpfs tmpfs /programs
cp -a /memory/. /programs
mount -t tmpfs tmpfs /upper
mkdir /upper/upper /upper/work
mount -t overlay -o lowerdir=/programs:/lower,upperdir=/upper/upper,workdir=/upper/work overlay /merged
for fs in proc sys dev; do
	mount --move /$fs /merged/$fs
done
exec switch_root /merged /bin/sh "$@"
