#!/bin/sh
# deb: remove, purge, upgrade and more; rpm: how many versions are left.
set -e

case "$1" in
remove | purge | 0)
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload
		systemctl reset-failed meshd.service meshd-wireguard.service 2>/dev/null || true
	fi
	# Of `meshd network-managers`.
	rm -f /run/NetworkManager/conf.d/90-meshd.conf /run/systemd/network/00-meshd.network \
		/run/udev/rules.d/86-meshd.rules
	rm -f /run/wireguard/meshd-wg.sock /run/wireguard/meshd-wg.lock
	rmdir /run/meshd /run/flannel /run/wireguard 2>/dev/null || true  # fails if others have files there
	;;
esac
if [ "$1" = purge ]; then
	rm -f /etc/mesh.toml /etc/meshd/private.key /etc/meshd/private.key.next
	rmdir /etc/meshd 2>/dev/null || true # fails if the administrator has files there
	rm -rf /var/lib/meshd
fi
