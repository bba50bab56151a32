# shellcheck shell=sh
# Makes the first root of the machine, in the current folder, of the kernel in the folder $0 of version $1, and the
# image $2 of it.
cp "$(command -v busybox)" bin/
for module in virtio_pci 9pnet_virtio 9p overlay; do
	modprobe -d "$0" -S "$1" --show-depends $module
done | sed -n 's/^insmod //p' | awk '!seen[$1]++ { print $1 }' >order
n=100
while read -r file; do
	n=$((n + 1)) name=$n-${file##*/}
	case $file in
	*.xz) busybox unxz -c "$file" >"${name%.xz}" ;;
	*) cp "$file" "$name" ;;
	esac
done <order

# Small programs of this machine, some large ones with their libraries, and modules that tests may ask for.
here=$PWD modules=lib/modules/$1
mkdir -p "memory/usr/$modules/kernel/drivers/net"
(
	cd /
	{
		ls -d bin sbin lib lib64
		find usr/bin usr/sbin usr/lib/*-linux-gnu/xtables etc ! -type f -o -size -500k
		for program in bash bridge conntrack curl dnsmasq ethtool ip iptables jq kmod nc nft ping setpriv strace sysctl tc tcpdump wg; do
			at=$(readlink -f "$(command -v $program)") || continue
			for file in $at $(ldd "$at" | grep -o '/[^ ]*'); do
				echo "$(readlink -f "${file%/*}")/${file##*/}"
				readlink -f "$file"
			done
		done | sed 's,^/,,'
	} | sort -u | cpio -pdm --quiet "$here/memory"
)
cd "$0/$modules"
cp modules.* "$here/memory/usr/$modules"
for folder in arch crypto lib net drivers/net/wireguard drivers/net/vxlan; do
	cp -r "kernel/$folder" "$here/memory/usr/$modules/kernel/${folder%/*}"
done
cp kernel/drivers/net/tun.ko* kernel/drivers/net/veth.ko* "$here/memory/usr/$modules/kernel/drivers/net"
cd "$here"
find . | cpio -o -H newc --quiet >"$2"
