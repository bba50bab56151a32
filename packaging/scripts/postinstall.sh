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
	# An upgrade. The new program takes over the process of the old one, which a service
	# that has become another one cannot: it is restarted, and what waits in sockets and
	# queues is kept by systemd meanwhile. A daemon that does not run is not started.
	before=$(cat /run/meshd.service.before 2>/dev/null || true)
	if [ "$before" = "$(cat /usr/lib/systemd/system/meshd.service)" ] && systemctl --quiet is-active meshd.service; then
		systemctl kill --kill-who=main --signal=USR2 meshd.service
	else
		systemctl try-restart meshd.service
	fi
	rm -f /run/meshd.service.before
fi
