#!/bin/sh
# deb: configure OLD-VERSION; rpm: how many versions are installed now.
set -e

unit=/usr/lib/systemd/system/meshd.service

# Whether the program that runs is the one that was installed, within ten seconds.
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

# The new program takes over the process of the old one. A service that has become another
# one is restarted instead; then systemd keeps what waits in sockets and queues. Nothing
# here waits for the mesh, which may have to wait for an address. A daemon that does not
# run is not started.
upgrade() {
	before=$(cat /run/meshd.service.before 2>/dev/null || true)
	rm -f /run/meshd.service.before
	state=$(systemctl is-active meshd.service || true)
	case "$state" in
	active | reloading | activating) ;;
	failed) # the new version may be the cure, where it is to run
		systemctl --quiet is-enabled meshd.service || return 0
		;;
	*) return 0 ;;
	esac
	# With the options that the service has.
	MESHD_OPTS=
	for file in /etc/default/meshd /etc/sysconfig/meshd; do
		if [ -r $file ]; then
			. $file
		fi
	done
	# shellcheck disable=SC2086 # several words
	if ! why=$(meshd run --check $MESHD_OPTS 2>&1); then
		echo "$why" >&2
		echo "meshd: the version that was installed cannot run with this. The one that ran before is left as it is: mend it, then \`systemctl restart meshd\`" >&2
	elif [ "$state" = failed ]; then
		systemctl --no-block restart meshd.service
	elif [ "$before" = "$(cat $unit)" ] && systemctl kill --kill-who=main --signal=USR2 meshd.service && taken_over; then
		:
	else
		systemctl --no-block try-restart meshd.service
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

# Not while an image is built.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	upgrade
fi
