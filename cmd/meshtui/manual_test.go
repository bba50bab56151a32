package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// The manual has every flag that --help lists.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../../packaging/man/meshtui.1")
	if err != nil {
		t.Fatal(err)
	}
	newCommand(os.Stdin, os.Stdout).Flags().VisitAll(func(f *pflag.Flag) {
		named := strings.Contains(string(page), ".It Fl -"+f.Name) ||
			f.Shorthand != "" && strings.Contains(string(page), ".It Fl "+f.Shorthand+" , -"+f.Name)
		if !f.Hidden && f.Name != "help" && !named {
			t.Errorf("no --%s", f.Name)
		}
	})
}
