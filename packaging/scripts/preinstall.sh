#!/bin/sh
# deb: install, or upgrade OLD-VERSION; rpm: how many versions will be installed.
set -e

# postinstall compares the unit with this copy, to see whether the upgrade changed it.
if [ -d /run/systemd/system ] && [ -e /usr/lib/systemd/system/meshd.service ]; then
	cp /usr/lib/systemd/system/meshd.service /run/meshd.service.before
fi
