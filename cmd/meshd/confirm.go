package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"example.org/meshd/internal/apply"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/foreign"
)

// confirmCommand returns `meshd confirm`.
func confirmCommand(g *globals) *cobra.Command {
	var sum, state string
	cmd := &cobra.Command{
		Use:   "confirm",
		Short: "Keep the change that waits for its confirmation",
		Long: `Keep the change that "meshd apply --confirm" has put in force. The exit code is 1 if none waits, also
because the time is over and meshd has gone back to the file before.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := g.client()
			defer client.Close()
			if err := client.Confirm(cmd.Context(), control.ConfirmRequest{SHA256: sum, Told: whoAsks()}); err != nil {
				return err
			}
			if err := printConfirmed(cmd, g); err != nil {
				return err
			}
			return follow(cmd, g, client, state)
		},
	}
	cmd.Flags().StringVar(&sum, "sha256", "", "confirm only the file with this `hash`")
	cmd.Flags().StringVar(&state, "state", "", "as for run")
	return cmd
}

// printConfirmed says that a change stays.
func printConfirmed(cmd *cobra.Command, g *globals) error {
	if g.json {
		return printJSON(cmd.OutOrStdout(), control.Ready{OK: true})
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), "the change is confirmed and stays in force")
	return err
}

// followFileCommand returns the hidden command that a unit of root runs when the state folder says that the
// file is to follow what is in force.
func followFileCommand(g *globals) *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use: "follow-file", Short: "Write the file in force to the file of --config, if that is owed", Hidden: true,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return g.follow(cmd, state) },
		// It gets MESHD_OPTS, as `meshd run` does.
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
	}
	cmd.Flags().StringVar(&state, "state", "", "as for run")
	return cmd
}

// follow has the file of --config follow what is in force, if this is root; else it says that the file stays
// behind. What is in force stays so in any case.
func follow(cmd *cobra.Command, g *globals, client *control.Client, state string) error {
	if os.Geteuid() == 0 {
		return g.follow(cmd, state)
	}
	s, err := client.Status(cmd.Context())
	if err == nil && s.Config.Source == control.SourceApplied {
		fmt.Fprintf(cmd.ErrOrStderr(), "meshd: %s stays as it is: only root may write it\n", s.Config.Path)
	}
	return nil
}

// follow writes the text in force to the file of --config, if meshd's record says that this is owed, and if
// the text is a good file.
func (g *globals) follow(cmd *cobra.Command, state string) error {
	path, err := filepath.Abs(g.config)
	if err != nil {
		return err
	}
	folder := stateFolder(state, g.socket)
	err = apply.Alone(cmd.Context(), folder, func() error {
		real, content, info, err := currentFile(path)
		if err != nil {
			return err
		}
		text, owed, err := apply.Owed(folder, path, content)
		if err != nil || !owed || bytes.Equal(text, content) {
			return err
		}
		if _, err := config.Parse(path, text); err != nil {
			return err
		}
		if err := writeWhole(real, text, info); err != nil {
			return fmt.Errorf("%w: let root write there, and use `meshd apply` again", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s does not follow the file in force: %w", path, err)
	}
	return nil
}

// currentFile returns the file at a path, without symbolic links, its content, and what is known of it; all
// of them are empty for none.
func currentFile(path string) (real string, content []byte, info os.FileInfo, err error) {
	real, err = filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil, nil, nil
	}
	if err != nil {
		return "", nil, nil, err
	}
	found, err := foreign.ReadFile(real, config.MaxSize)
	if err == nil {
		info, err = os.Stat(real)
	}
	return real, found.Content, info, err
}

// writeWhole writes a file whole or not at all; one that is new may be read by all.
func writeWhole(path string, text []byte, was os.FileInfo) error {
	if was != nil {
		return replace(path, text, was)
	}
	return renameio.WriteFile(path, text, 0o644)
}
