package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/page"
)

// sectionOf is the part of a manual that is about a command: up to the one about the next.
func sectionOf(manual, command string) string {
	_, rest, _ := strings.Cut(manual, "\n.It Cm "+command+"\n")
	section, _, _ := strings.Cut(rest, "\n.It Cm ")
	return section
}

// flagIn tells whether a text names a flag, by its name or its letter.
func flagIn(text string, f *pflag.Flag) bool {
	for _, name := range []string{"-" + f.Name, f.Shorthand} {
		for _, end := range []string{"\n", " "} {
			if name != "" && strings.Contains(text+"\n", "Fl "+name+end) {
				return true
			}
		}
	}
	return false
}

// statusColumns are the columns of the table of peers, as `meshd status` prints it into a pipe where packets
// are encrypted.
func statusColumns(t *testing.T) []string {
	t.Helper()
	var b strings.Builder
	s := control.Status{Node: "a", Peers: []control.Peer{{Name: "b", WireGuard: &control.PeerWireGuard{}}}}
	if err := page.Peers(&b, s, page.Options{}); err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(b.String(), "\n")
	return strings.Fields(head)
}

// The manual has every command with its flags, every state of a peer each column of a status,
// each exit code and every reason of a drop.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../packaging/man/meshd.8")
	if err != nil {
		t.Fatal(err)
	}
	manual := string(text)
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
			section := sectionOf(manual, cmd.Name())
			cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
				switch {
				case f.Hidden, f.Name == "help", newRoot().PersistentFlags().Lookup(f.Name) != nil:
				case !flagIn(section, f):
					t.Errorf("the part about it has no --%s", f.Name)
				}
			})
		})
	}
	newRoot().PersistentFlags().VisitAll(func(f *pflag.Flag) {
		t.Run("--"+f.Name, func(t *testing.T) {
			if !flagIn(manual, f) {
				t.Error("it is missing")
			}
		})
	})
	for _, state := range []string{control.Up, control.Draining, control.Stale, control.Silent, control.OneWay,
		control.Down, control.Unknown} {
		t.Run("state "+state, func(t *testing.T) { has(t, ".It Li "+state+"\n") })
	}
	for _, code := range []int{exitNo, exitUsage, exitNotRunning, exitPermission, exitMismatch, exitTimeout,
		exitConfig} {
		t.Run(fmt.Sprint("exit code ", code), func(t *testing.T) { has(t, fmt.Sprintf("\n.It %d\n", code)) })
	}
	for _, column := range statusColumns(t) {
		t.Run("column "+column, func(t *testing.T) { has(t, "\n.It Sy "+column+"\n") })
	}
	for _, reason := range mesh.Reasons() {
		t.Run("reason "+reason.String(), func(t *testing.T) { has(t, "Li "+reason.String()) })
	}
}
