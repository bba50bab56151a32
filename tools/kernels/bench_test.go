package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// said is what a machine says, with a mode that is slower than its floor by more than the slack.
const said = `6.12.1-amd64
FIGURE vxlan tcp1 4.20 4.10 4.90
FIGURE tcx tcp1 7.7 7.8 7.5
FIGURE vxlan@bridge tcp1 4.0 4.0 4.0
FIGURE tcx@bridge tcp1 6.5 6.5 6.5
ABSENT fou@bridge receive is "tcx" and not "fou" here
measure ended with 0
`

// What the machine says becomes medians with their ranges, ratios against VXLAN, and reasons.
func TestTable(t *testing.T) {
	table := readTable("6.12.1-amd64", said)
	page := table.markdown()
	for _, want := range []string{
		"| kernel VXLAN | 4.20 (4.10-4.90) | 1.00 |\n",
		"| meshd kernel tcx | 7.70 (7.50-7.80) | 0.55 |\n",
		"| meshd kernel tcx | 6.50 (6.50-6.50) | 0.62 |\n",
		"| meshd kernel fou | not measured: receive is \"tcx\" and not \"fou\" here | |\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("there is no %q in\n%s", want, page)
		}
	}
}

// A ratio that fell below its floor is told, one that was not measured is not.
func TestFloors(t *testing.T) {
	err := readTable("6.12.1-amd64", said).keepsFloors()
	if err == nil || strings.Count(err.Error(), "\n") != 0 || !strings.Contains(err.Error(), "tcx is 0.574x") {
		t.Errorf("%v", err)
	}
	if err := readTable("6.12.1-amd64", "FIGURE tcx tcp1 7.4").keepsFloors(); err != nil {
		t.Error(err)
	}
}

// A kernel's part takes the place of the one of its series, and leaves what is before and behind it.
func TestWrite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "benchmarks.md")
	before := "# Benchmarks\n\nA table.\n\n## Instructions on Linux 6.1.9-amd64\n\nolder\n\n" +
		"## Instructions on Linux 6.12.0-amd64\n\nold\n"
	if err := os.WriteFile(file, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	table := readTable("6.12.1-amd64", said)
	for range 2 { // the second time nothing changes
		if err := table.write(file); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want := "# Benchmarks\n\nA table.\n\n## Instructions on Linux 6.1.9-amd64\n\nolder\n\n" + table.markdown()
		if string(text) != want {
			t.Errorf("got\n%s\nwant\n%s", text, want)
		}
	}
}
