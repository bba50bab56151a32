#!/bin/sh
# guest.sh KERNEL BIN {FOLDER BINARY FLAG}...: runs in each folder those tests of a binary that FLAG names,
# with the programs in BIN and the modules of KERNEL, and ends the machine.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/run # the folder may be below /tmp
for fs in /run /dev/shm; do
	mkdir -p $fs && mount -t tmpfs tmpfs $fs
done
mkdir -p /dev/pts /lib/modules
mount -t devpts devpts /dev/pts
mount -t bpf -o mode=0700 bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind "$1/lib/modules" /lib/modules
for module in tun veth bridge 8021q xfrm_user esp4 nf_tables nft_chain_nat nft_masq nft_ct nf_conntrack nft_compat xt_conntrack nf_conntrack_netlink cls_bpf sch_ingress wireguard; do # before tests wait for them
	modprobe $module 2>/dev/null
done
ip link set lo up
[ -e /dev/net/tun ] || { mkdir -p /dev/net && mknod /dev/net/tun c 10 200; }
uname -r
# Each instruction is emulated here, by as many CPUs as others leave.
export MESH_REQUIRE_NETNS=1 MESH_BIN=$2 MESH_PATIENCE=4 MESH_WIREGUARD=kernel
shift 2
while [ $# -gt 0 ]; do
	cd "$1" && "$2" -test.v -test.timeout 18m -test.run '^$' "$3"
	echo "tests ended with $?"
	shift 3
done
sync
exec busybox poweroff -f
