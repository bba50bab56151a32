#!/bin/sh
# deb: install, or upgrade OLD-VERSION; rpm: how many versions will be installed.
set -e

# Whether the service is the same as before the upgrade, postinstall wants to know.
if [ -d /run/systemd/system ] && [ -e /usr/lib/systemd/system/meshd.service ]; then
	cp /usr/lib/systemd/system/meshd.service /run/meshd.service.before
fi
