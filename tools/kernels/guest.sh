#!/bin/sh
# guest.sh BIN tests {FOLDER BINARY FLAG}...: runs in each folder those tests of a binary in BIN that FLAG names, and
# ends the machine.
# guest.sh BIN measure LOADS MODE...: measures instead (tools/kernels/measure).
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/run # the folder may be below /tmp
for fs in /run /dev/shm; do
	mkdir -p $fs && mount -t tmpfs tmpfs $fs
done
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t bpf -o mode=0700 bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for module in tun veth bridge 8021q xfrm_user esp4 nf_tables nft_chain_nat nft_masq nft_ct nf_conntrack nft_compat xt_conntrack nf_conntrack_netlink cls_bpf sch_ingress wireguard vxlan ipip sit fou; do # before tests wait for them
	modprobe $module 2>/dev/null
done
ip link set lo up
ln -sf /proc/self/fd /dev/fd # for wg-quick, which has its configuration from a process of the shell
[ -e /dev/net/tun ] || { mkdir -p /dev/net && mknod /dev/net/tun c 10 200; }

bin=$1 what=$2
shift 2
mkdir -p /run/bin
uname -r
case $what in
tests)
	cp "$bin/meshd" "$bin/meshtui" "$bin"/*.test /run/bin
	export MESH_REQUIRE_NETNS=1 MESH_BIN=/run/bin MESH_PATIENCE=4 MESH_WIREGUARD=kernel MESH_OWN_KERNEL=1
	while [ $# -gt 0 ]; do
		cd "$1" && "/run/bin/$2" -test.v -test.timeout 60m "$3"
		echo "tests ended with $?, at $(cut -d' ' -f1 /proc/uptime) s"
		shift 3
	done
	# A packet may come out whole, and the kernel may have found its description wrong.
	if dmesg | grep -A 30 -E 'WARNING: |BUG: |kernel BUG|Oops|protection fault|refcount_t|skb_over_panic|bad gso|hw csum failure'; then
		echo "the kernel complains"
	fi
	;;
measure)
	cp "$bin/meshd" "$bin/measure" /run/bin
	/run/bin/measure "$@"
	echo "measure ended with $?"
	;;
esac
sync
exec busybox poweroff -f
