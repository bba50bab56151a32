package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/config"
)

func checkCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file; silent if it is good",
		Long: `Check FILE, or the file of --config. Nothing is printed and the exit code is 0 if it
is good; otherwise every fault stands on a line of its own and the exit code is 1.
A good file may have warnings, also on lines of their own; the exit code stays 0.
It needs no privileges and changes nothing.`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := g.config
			if len(args) == 1 {
				path = args[0]
			}
			found, bad, err := findings(path)
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
}

// A finding is a fault or a warning of a file, as `meshd check --json` prints it.
type finding struct {
	config.Fault
	Level string `json:"level"` // "error" or "warning"
}

// findings returns all that can be said of the file at path; bad tells whether it has
// faults.
func findings(path string) (found []finding, bad bool, err error) {
	found = []finding{} // [] in JSON
	c, err := config.Load(path)
	if faults, bad := errors.AsType[config.Faults](err); bad {
		for _, f := range faults {
			found = append(found, finding{f, "error"})
		}
		return found, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	for _, w := range c.Warnings() {
		found = append(found, finding{config.Fault(w), "warning"})
	}
	return found, false, nil
}

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
var version = "0.1.0-dev"

func versionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if g.json {
				return printJSON(cmd.OutOrStdout(), map[string]string{"version": version})
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "meshd", version)
			return err
		},
	}
}

func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
