#!/bin/sh
# deb: remove, or upgrade NEW-VERSION; rpm: how many versions will be left.
set -e

case "$1" in
remove | deconfigure | 0) ;;
*) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl --quiet disable --now meshd.service
fi
# The interface, routes and rules, which outlive the daemon on purpose.
if [ -e /dev/net/tun ]; then
	meshd cleanup || true
fi
