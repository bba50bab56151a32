package main

import (
	"os"
	"strings"

	"example.org/meshd/internal/control"
)

// stateFolder returns where meshd keeps what has to survive it: the folder that was asked for, or
// the service's, or one beside a control socket of another place.
func stateFolder(asked, socket string) string {
	switch {
	case asked != "":
		return asked
	case socket != control.DefaultSocket:
		return socket + ".state"
	}
	if first, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); first != "" { // systemd.exec(5)
		return first
	}
	return "/var/lib/meshd"
}
