#!/bin/sh
# deb: remove, deconfigure, or upgrade NEW-VERSION; rpm: how many versions will be left.
set -e

case "$1" in
remove | 0) how="disable --now" ;;
deconfigure) how=stop ;; # the package is configured again later
*) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	# shellcheck disable=SC2086 # two words
	systemctl --quiet $how meshd.service meshd-ready.service meshd-wireguard.service meshd-file.path
fi
# Removes the interface, routes, rules and files, which outlive the daemon on purpose, and
# restores forwarding as meshd found it.
meshd cleanup || true
