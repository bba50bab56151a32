package main

import (
	"strings"
	"testing"
)

// Flags stand before or after the command, whosever they are.
func TestCommandFirst(t *testing.T) {
	for line, want := range map[string]string{
		"status":                     "status",
		"--json status":              "status --json",
		"-f events":                  "events -f",
		"--follow events --since 1h": "events --follow --since 1h",
		"--since 1h events":          "events --since 1h",
		"--sysctl run -c x":          "run --sysctl -c x",
		"-c run status":              "status -c run",
		"-c run":                     "-c run",
		"--config=run status":        "status --config=run",
		"-c 2 -i 1s ping status":     "ping -c 2 -i 1s status",
		"ping status":                "ping status",
		"--socket status peers":      "peers --socket status",
		"nonsense":                   "nonsense",
		"-- status":                  "-- status",
		"help run":                   "help run",
		"":                           "",
	} {
		if got := strings.Join(commandFirst(newRoot(), strings.Fields(line)), " "); got != want {
			t.Errorf("%q became %q, not %q", line, got, want)
		}
	}
	if code, _, errs := meshd("--sysctl", "run", "-c", "/nonexistent"); code != 78 {
		t.Errorf("%d, %s", code, errs)
	}
	if code, _, errs := meshd("-f", "events", "--socket", "/nonexistent"); code != 3 {
		t.Errorf("%d, %s", code, errs)
	}
}
