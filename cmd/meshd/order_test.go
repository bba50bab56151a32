package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// Flags stand before or after the command, whosever they are.
func TestCommandFirst(t *testing.T) {
	for line, want := range map[string]string{
		"status":                      "status",
		"--json status":               "status --json",
		"-f events":                   "events -f",
		"--follow events --since 1h":  "events --follow --since 1h",
		"--since 1h events":           "events --since 1h",
		"--since=1h events":           "events --since=1h",
		"--sysctl run -c x":           "run --sysctl -c x",
		"-c run status":               "status -c run",
		"-c run":                      "-c run",
		"-crun status":                "status -crun",
		"-cs status":                  "status -cs",
		"-fc file events":             "events -fc file",
		"-fi events":                  "-fi events",
		"--config=run status":         "status --config=run",
		"-c 2 -i 1s ping status":      "ping -c 2 -i 1s status",
		"-n 2 ping status":            "ping -n 2 status",
		"-n2 ping status":             "ping -n2 status",
		"ping status":                 "ping status",
		"ping -c 2 status":            "ping -c 2 status",
		"--socket status peers":       "peers --socket status",
		"--no-such-flag status":       "status --no-such-flag",
		"-x status":                   "status -x",
		"plan -":                      "plan -",
		"nonsense":                    "nonsense",
		"--json nonsense status":      "nonsense --json status",
		"-- status":                   "-- status",
		"--json -- status":            "--json -- status",
		"help run":                    "help run",
		"-w 5 status":                 "status -w 5",
		"--watch 5 status":            "status --watch 5",
		"-w status":                   "status -w",
		"--check status":              "status --check",
		"--check ready status":        "status --check ready",
		"-w=5 status":                 "status -w=5",
		"--check run":                 "run --check",
		"--timeout 1s wait peer:wait": "wait --timeout 1s peer:wait",
		"":                            "",
	} {
		t.Run(line, func(t *testing.T) {
			args := strings.Fields(line)
			before := slices.Clone(args)
			if got := strings.Join(commandFirst(newRoot(), args), " "); got != want {
				t.Errorf("became %q, want %q", got, want)
			}
			if !slices.Equal(args, before) {
				t.Errorf("the caller's list became %q", args)
			}
		})
	}
}

// commandFirst works without knowing the command, because flags of one name or letter take values
// in all commands or in none.
func TestFlagsAgree(t *testing.T) {
	takes, by := map[string]bool{}, map[string]string{}
	root := newRoot()
	for _, cmd := range append(root.Commands(), root) {
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			for _, name := range []string{"--" + f.Name, "-" + f.Shorthand} {
				if name == "-" {
					continue
				}
				value := f.NoOptDefVal == ""
				if earlier, seen := takes[name]; seen && earlier != value {
					t.Errorf("%s takes a value in only one of %s and %s", name, by[name], cmd.Name())
				}
				takes[name], by[name] = value, cmd.Name()
			}
		})
	}
	if !takes["-c"] || takes["-f"] || !takes["--socket"] {
		t.Errorf("%v", takes)
	}
}

func TestFlagsBeforeTheCommand(t *testing.T) {
	for line, want := range map[string]int{
		"-f events --socket /nonexistent":              exitNotRunning,
		"--socket /nonexistent -n 2 ping a":            exitNotRunning,
		"--no-such-flag status --socket /nonexistent":  exitUsage,
		"--timeout 1ms wait ready --socket /none":      exitTimeout,
		"--socket /nonexistent --interval 1s status":   exitUsage, // it is ping's
		"--socket /nonexistent --json status --socket": exitUsage,
	} {
		t.Run(line, func(t *testing.T) {
			if code, _, errs := meshd(strings.Fields(line)...); code != want {
				t.Errorf("%d, want %d: %s", code, want, errs)
			}
		})
	}
}
