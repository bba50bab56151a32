#!/bin/sh
# deb: configure OLD-VERSION; rpm: how many versions are installed now.
set -e

unit=/usr/lib/systemd/system/meshd.service

# Succeeds if the service runs the installed program within ten seconds.
taken_over() {
	for _ in $(seq 40); do
		pid=$(systemctl show --property=MainPID meshd.service)
		if [ "$(readlink "/proc/${pid#MainPID=}/exe")" = /usr/bin/meshd ]; then
			return 0
		fi
		sleep 0.25
	done
	return 1
}

# Makes the new program take over the process of the old one. If the unit has changed, the
# service is restarted instead, and systemd keeps the packets in sockets and queues. This
# does not wait for the mesh, which may itself wait for an address. A daemon that is not
# running is not started.
upgrade() {
	before=$(cat /run/meshd.service.before 2>/dev/null || true)
	rm -f /run/meshd.service.before
	state=$(systemctl is-active meshd.service || true)
	case "$state" in
	active | reloading | activating) ;;
	failed) # the new version may fix it, if the service is enabled
		systemctl --quiet is-enabled meshd.service || return 0
		;;
	*) return 0 ;;
	esac
	# The service's own options.
	MESHD_OPTS=
	for file in /etc/default/meshd /etc/sysconfig/meshd; do
		if [ -r $file ]; then
			. $file
		fi
	done
	# shellcheck disable=SC2086 # several words
	if ! why=$(meshd run --check $MESHD_OPTS 2>&1); then
		echo "$why" >&2
		echo "meshd: the installed version cannot run with this configuration. The running version stays: fix the" \
			"errors above, then run \`systemctl restart meshd\`" >&2
	elif [ "$state" = failed ]; then
		systemctl --no-block restart meshd.service
	elif [ "$before" = "$(cat $unit)" ] && systemctl kill --kill-who=main --signal=USR2 meshd.service && taken_over; then
		:
	else
		systemctl --no-block try-restart meshd.service
	fi
}

# A helper that runs goes on: a restart of it would end all sessions, which takes each peer a handshake.
# Old and new versions of meshd and of the helper understand each other, since the protocol between them is
# WireGuard's own. One that has failed gets the new program.
helper() {
	pid=$(systemctl show --property=MainPID meshd-wireguard.service)
	if systemctl --quiet is-failed meshd-wireguard.service; then
		systemctl --no-block restart meshd-wireguard.service
	elif [ "${pid#MainPID=}" != 0 ] && [ "$(readlink "/proc/${pid#MainPID=}/exe")" != /usr/bin/meshd ]; then
		echo "meshd: meshd-wireguard.service still runs the version before, so that no session is lost. Restart it" \
			"when a pause of less than a second does no harm: \`systemctl restart meshd-wireguard\`" >&2
	fi
}

systemd-sysusers meshd.conf

# A first installation (deb: no version before; rpm: one version now).
if [ "$1 $2" = "configure " ] || [ "$1" = 1 ]; then
	if [ ! -e /etc/mesh.toml ] && [ ! -L /etc/mesh.toml ]; then
		cp /usr/share/meshd/mesh.toml /etc/mesh.toml
		chmod 0644 /etc/mesh.toml
	fi
fi

# There is no systemd while an image is built.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# They have to know the drop-ins before meshd makes an interface. One that does not run stays so.
	for manager in systemd-udevd NetworkManager systemd-networkd; do
		systemctl reload $manager.service 2>/dev/null || true
	done
	helper
	upgrade
fi
