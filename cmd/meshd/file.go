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
It needs no privileges and changes nothing.`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := g.config
			if len(args) == 1 {
				path = args[0]
			}
			_, err := config.Load(path)
			faults, bad := errors.AsType[config.Faults](err)
			if g.json {
				if faults == nil {
					faults = config.Faults{}
				}
				if err := printJSON(cmd.OutOrStdout(), faults); err != nil {
					return err
				}
			} else if bad {
				fmt.Fprintln(cmd.OutOrStdout(), faults)
			}
			if bad {
				return errSilent
			}
			return err
		},
	}
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
