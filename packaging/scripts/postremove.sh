#!/bin/sh
# deb: remove, purge, upgrade and more; rpm: how many versions are left.
set -e

case "$1" in
remove | purge | 0)
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload
		systemctl reset-failed meshd.service 2>/dev/null || true
	fi
	# Of `meshd network-managers`.
	rm -f /run/NetworkManager/conf.d/90-meshd.conf /run/systemd/network/00-meshd.network \
		/run/udev/rules.d/86-meshd.rules
	rmdir /run/meshd /run/flannel 2>/dev/null || true  # fails if others have files there
	;;
esac
if [ "$1" = purge ]; then
	rm -f /etc/mesh.toml
	rm -rf /var/lib/meshd
fi
