package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
)

// The manual has every command with its flags, every state of a peer and every reason of a drop.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../../packaging/man/meshd.8")
	if err != nil {
		t.Fatal(err)
	}
	manual := string(page)
	has := func(t *testing.T, what string) {
		t.Helper()
		if !strings.Contains(manual, what) {
			t.Errorf("no %q", what)
		}
	}
	for _, cmd := range newRoot().Commands() {
		if cmd.Hidden {
			continue
		}
		t.Run(cmd.Name(), func(t *testing.T) {
			has(t, ".Cm "+cmd.Name())
			cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
				short := f.Shorthand != "" && strings.Contains(manual, "Fl "+f.Shorthand+"\n")
				if !f.Hidden && !short && newRoot().PersistentFlags().Lookup(f.Name) == nil && f.Name != "help" {
					has(t, "Fl -"+f.Name)
				}
			})
		})
	}
	for _, state := range []string{control.Up, control.Draining, control.Stale, control.Silent, control.OneWay,
		control.Down, control.Unknown} {
		t.Run("state "+state, func(t *testing.T) { has(t, ".It Li "+state+"\n") })
	}
	for _, reason := range mesh.Reasons() {
		t.Run("reason "+reason.String(), func(t *testing.T) { has(t, "Li "+reason.String()) })
	}
}
