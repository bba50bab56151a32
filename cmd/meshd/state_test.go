package main

import (
	"testing"

	"example.org/meshd/internal/control"
)

func TestStateFolder(t *testing.T) {
	for _, test := range []struct{ name, asked, socket, environment, want string }{
		{"of an installed daemon", "", control.DefaultSocket, "", "/var/lib/meshd"},
		{"of a service", "", control.DefaultSocket, "/srv/one:/srv/two", "/srv/one"},
		{"beside another socket", "", "/tmp/s", "/srv/one", "/tmp/s.state"},
		{"as asked for", "/here", "/tmp/s", "/srv/one", "/here"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("STATE_DIRECTORY", test.environment)
			if got := stateFolder(test.asked, test.socket); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}
