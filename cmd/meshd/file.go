package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/survey"
)

// checkCommand returns `meshd check`, for editors, hooks and CI: it works on any machine and as any
// user.
func checkCommand(g *globals) *cobra.Command {
	var resolve bool
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file; silent if it is valid",
		Long: `Check FILE, or the file of --config; "-" is standard input. If it is valid, the exit code is 0 and
nothing is printed but warnings, each on its own line. Otherwise every fault is printed on its own line
and the exit code is 1. It needs no privileges and changes nothing.

Names in place of addresses are not looked up. With --resolve this host's DNS is asked for each of
them, for 30 seconds at most: a name without a usable address is a fault.`,
		Example: "  meshd check new.toml && meshd plan new.toml\n" +
			"  ssh edge-2 cat /etc/mesh.toml | meshd check -",
		Args:              arguments(0, 1),
		ValidArgsFunction: tomlFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := g.config
			if len(args) == 1 {
				path = args[0]
			}
			found, bad, err := findings(cmd.Context(), cmd.InOrStdin(), path, resolve)
			if err != nil {
				return err
			}
			if g.json {
				err = printJSON(cmd.OutOrStdout(), found)
			} else {
				err = printFindings(cmd.OutOrStdout(), found)
			}
			if bad && err == nil {
				return errSilent
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&resolve, "resolve", false, "look up the names that the file has for addresses, too")
	return cmd
}

// resolveWithin bounds how long names are looked up.
const resolveWithin = 30 * time.Second

// A finding is a fault or a warning of a file, as `meshd check --json` prints it.
type finding struct {
	config.Fault
	Level string `json:"level"` // "error" or "warning"
}

// findings returns the faults of the file at path, or the warnings if it has no faults; bad tells
// whether it has. If resolve is true, its names are looked up, too.
func findings(ctx context.Context, stdin io.Reader, path string, resolve bool,
) (found []finding, bad bool, err error) {
	found = []finding{} // never null in JSON
	c, err := load(ctx, stdin, path)
	if faults, bad := errors.AsType[config.Faults](err); bad { // a missing file is a fault, too
		for _, f := range faults {
			found = append(found, finding{f, "error"})
		}
		return found, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	// Only of a valid file: what a faulty one warns of may go with its faults.
	for _, w := range c.Warnings() {
		found = append(found, finding{config.Fault(w), "warning"})
	}
	if resolve {
		ctx, cancel := context.WithTimeout(ctx, resolveWithin)
		defer cancel()
		for _, f := range survey.Check(ctx, slog.New(slog.DiscardHandler), c, nil) {
			found, bad = append(found, finding{f, "error"}), true
		}
	}
	return found, bad, nil
}

// load reads a file, or standard input if its name is "-".
func load(ctx context.Context, stdin io.Reader, path string) (*config.Config, error) {
	if path != "-" {
		return config.Load(path)
	}
	doc, err := readInput(ctx, stdin)
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	return config.Parse(standardInput, doc)
}

// standardInput is the name of the file in the faults of what is read there.
const standardInput = "(standard input)"

// printFindings writes a line for each finding, as compilers do.
func printFindings(w io.Writer, found []finding) error {
	for _, f := range found {
		line := f.String()
		if f.Level == "warning" {
			line = config.Warning(f.Fault).String()
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// version is set by the linker (-X main.version=...).
var version = "0.2.0-dev"

// versionCommand returns `meshd version`. It tells the version of this program; that of the running
// daemon, which an upgrade may not have replaced yet, is in `meshd status`.
func versionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  arguments(0, 0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return printVersion(g, cmd.OutOrStdout()) },
	}
}

// printVersion answers `meshd version` and `meshd --version`.
func printVersion(g *globals, out io.Writer) error {
	if g.json {
		return printJSON(out, map[string]string{"version": version})
	}
	_, err := fmt.Fprintln(out, "meshd", version)
	return err
}

// printJSON writes a value indented: people read it, and programs do not mind.
func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
