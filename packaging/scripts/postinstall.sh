#!/bin/sh
# deb: configure OLD-VERSION; rpm: how many versions are installed now.
set -e

systemd-sysusers meshd.conf
# Only ours, and only where there is a /proc/sys to write to (not in a chroot).
/lib/systemd/systemd-sysctl 60-meshd.conf 2>/dev/null || /usr/lib/systemd/systemd-sysctl 60-meshd.conf 2>/dev/null || true

if [ ! -e /etc/mesh.toml ]; then
	cp /usr/share/meshd/mesh.toml /etc/mesh.toml
	chmod 0644 /etc/mesh.toml
fi

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# An upgrade: what waits in sockets and queues is kept by systemd meanwhile. A
	# daemon that was never configured is never started.
	systemctl try-restart meshd.service
fi
