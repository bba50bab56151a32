package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/source"
)

// reloadCommand returns `meshd reload`, for those who want the outcome of an edit: scripts that
// roll a file out, and people after a rejected one.
func reloadCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Apply the file now and wait for the outcome",
		Long: `Tell the running meshd to read and apply its file now, and wait for the outcome.
An invalid file is rejected as a whole: its faults are printed, the exit code is 1, and the file
in force stays in force. If the host refuses the file for now, the exit code is 1 as well, and meshd
goes on trying. meshd also applies edits by itself; this command forces and reports it.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), reloadTimeout)
			defer cancel()
			// A rejected file is no error of the call: the answer has the faults, and which generation stays.
			result, err := g.client().Reload(ctx)
			if err != nil {
				return err
			}
			if g.json {
				if err := printJSON(cmd.OutOrStdout(), result); err != nil {
					return err
				}
			}
			// As text the faults go to stderr, where scripts that parse stdout do not stumble.
			if !result.Reload.OK {
				again := ""
				if result.Reload.Pending {
					again = fmt.Sprintf("trying again in %.0f s; ", result.Reload.RetrySeconds)
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%s\n%sstill running generation %d\n",
					result.Reload.Error, again, result.Generation)
				return errSilent
			}
			if !g.json {
				fmt.Fprintf(cmd.OutOrStdout(), "generation %d applied in %.0f ms: %s\n",
					result.Generation, result.Reload.DurationMS, words.Reloaded(result.Reload))
			}
			return nil
		},
	}
}

// planCommand returns `meshd plan`. Its exit codes are those of diff(1), so that scripts can tell
// "no change" from "cannot tell".
func planCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "plan [FILE]",
		Short: "Show what applying a file would change",
		Long: `Show what applying FILE would change in the running mesh, and change nothing.
FILE is the configured one by default, or standard input if it is "-". Each change is a line that
begins with "+" for what would be added, "-" for what would be removed, "~" for what would be
replaced. Exit code 0: nothing would change, 1: something would, 2: the file is invalid or the host
cannot apply it.`,
		Example:           "  meshd plan new.toml\n  meshd init --add edge-3 172.18.0.5 && meshd plan",
		Args:              arguments(0, 1),
		ValidArgsFunction: tomlFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			read, path := source.Read, g.config
			if len(args) == 1 {
				read, path = readAny, args[0]
			}
			// The file is sent, since the daemon may not be allowed to read it.
			doc, path, err := readFile(cmd.Context(), cmd.InOrStdin(), path, read)
			if err != nil { // not exit code 1, which means that something would change
				return fmt.Errorf("%w: %w", errPlan, err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
			defer cancel()
			plan, err := g.client().Plan(ctx, path, doc)
			// A daemon that did not answer says nothing about the file.
			if errors.Is(err, control.ErrNotRunning) || errors.Is(err, control.ErrPermission) ||
				errors.Is(err, control.ErrMismatch) {
				return err
			}
			if rejected, ok := errors.AsType[*control.Rejection](err); ok && len(rejected.Faults) > 0 && !g.json {
				// As `meshd check` prints them, so that editors find the places.
				fmt.Fprintln(cmd.ErrOrStderr(), rejected.Message)
				return fmt.Errorf("%w: %w", errPlan, errSilent)
			}
			if err != nil {
				return fmt.Errorf("%w: %w", errPlan, err)
			}
			if g.json {
				err = printJSON(cmd.OutOrStdout(), plan)
			} else {
				for _, w := range plan.Warnings {
					fmt.Fprintln(cmd.ErrOrStderr(), "warning:", warningOf(w))
				}
				for _, change := range plan.Changes { // the daemon's sentences, one for each of Details
					fmt.Fprintln(cmd.OutOrStdout(), change)
				}
			}
			// As diff(1): differences are exit code 1, and they have been printed.
			if err == nil && len(plan.Changes) > 0 {
				return errSilent
			}
			return err
		},
	}
}

// warningOf is a warning with what to do about it.
func warningOf(p control.Problem) string {
	line := strings.ReplaceAll(p.Text, "\n", " ")
	if p.Remedy == "" {
		return line
	}
	return line + ": " + p.Remedy
}

// readFile reads a file or, for "-", standard input. It returns the name that faults have:
// an absolute one, since the daemon does not know the folder of the caller.
func readFile(ctx context.Context, stdin io.Reader, path string,
	read func(ctx context.Context, path string, most int64) ([]byte, error),
) (doc []byte, name string, err error) {
	if path == "-" {
		doc, err = readInput(ctx, stdin)
		return doc, standardInput, err
	}
	if name, err = filepath.Abs(path); err != nil {
		return nil, path, err
	}
	doc, err = read(ctx, path, config.MaxSize)
	return doc, name, err
}

// readAny reads what somebody names: a pipe of the shell (`meshd plan <(...)`) is as good as a file.
func readAny(ctx context.Context, path string, most int64) ([]byte, error) {
	return attend(ctx, func() ([]byte, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readMost(f, most)
	})
}

// readInput reads a file from standard input.
func readInput(ctx context.Context, stdin io.Reader) ([]byte, error) {
	return attend(ctx, func() ([]byte, error) { return readMost(stdin, config.MaxSize) })
}

// readMost reads all, of at most most bytes.
func readMost(r io.Reader, most int64) ([]byte, error) {
	doc, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(doc)) > most {
		return nil, fmt.Errorf("%w: the limit is %d MiB", source.ErrTooLarge, most>>20)
	}
	return doc, err
}

// attend returns what read does, or the error of ctx as soon as that ends: nobody may ever write to a FIFO or
// a terminal. read is left behind then, until the program ends.
func attend(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type result struct {
		doc []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		doc, err := read()
		done <- result{doc, err}
	}()
	select {
	case r := <-done:
		return r.doc, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
