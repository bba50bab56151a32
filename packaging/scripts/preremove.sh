#!/bin/sh
# deb: remove, deconfigure, or upgrade NEW-VERSION; rpm: how many versions will be left.
set -e

case "$1" in
remove | 0) how="disable --now" ;;
deconfigure) how=stop ;; # it comes back
*) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	# shellcheck disable=SC2086 # two words
	systemctl --quiet $how meshd.service meshd-ready.service
fi
# The interface, routes, rules and files, which outlive the daemon on purpose; and forwarding
# (ip_forward and the like) is again as it was found.
meshd cleanup || true
