#!/bin/sh
# deb: remove, purge, upgrade and more; rpm: how many versions are left.
set -e

case "$1" in
remove | purge | 0)
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload
	fi
	;;
esac
if [ "$1" = purge ]; then
	rm -f /etc/mesh.toml
fi
