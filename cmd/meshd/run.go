package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/daemon"
)

// runCommand returns `meshd run`, the daemon. What it logs until the log is made goes to stderr as
// plain text.
func runCommand(g *globals) *cobra.Command {
	var node, state, level, format string
	var sysctl, check, strict bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Join this host to the mesh until stopped",
		Long: `Join this host to the mesh and forward packets until stopped by SIGTERM or Ctrl-C.
meshd applies an edit of the file within a second; SIGHUP and "meshd reload" force it. An invalid
file is rejected as a whole, and the file in force stays in force. If the file is invalid at the
start, meshd runs the last file that was in force, and says so. SIGUSR2 replaces this process with
the program that is installed now, without a gap in forwarding.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(cmd.ErrOrStderr(), level, format)
			if err != nil {
				return err
			}
			hangup := make(chan os.Signal, 1) // one that waits covers all that come after it
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			// Caught from the start: uncaught, SIGUSR2 would kill.
			replace := make(chan os.Signal, 1)
			signal.Notify(replace, syscall.SIGUSR2)
			defer signal.Stop(replace)
			run := daemon.Run
			if check { // for installers: the same tests, and no task is started
				run = func(_ context.Context, o daemon.Options) error { return daemon.Check(o) }
			}
			err = run(cmd.Context(), daemon.Options{
				ConfigPath: g.config, Node: node, Version: version, Sysctl: sysctl,
				Socket: g.socket, State: stateFolder(state, g.socket), Strict: strict,
				Reload: hangup, Replace: replace, Log: log,
			})
			return logged(cmd.ErrOrStderr(), log, format, err)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&node, "node", "", "`name` of this host in the file (default: the node with its address)")
	flags.BoolVar(&sysctl, "sysctl", false, "turn on forwarding for the mesh, and keep other networks apart")
	flags.StringVar(&state, "state", "", stateUsage)
	flags.BoolVar(&strict, "strict", false, "exit with 78 if the file is invalid, and run no last good one")
	flags.BoolVar(&check, "check", false, "check whether meshd could start now, and change nothing")
	flags.StringVar(&level, "log-level", "info", "lowest `level` that is logged: debug, info, warn or error")
	flags.StringVar(&format, "log-format", "text", "`format` of the log: text or json")
	choices(cmd, "log-level", "debug", "info", "warn", "error")
	choices(cmd, "log-format", "text", "json")
	return cmd
}

// logged writes the error with which the daemon ended in the form of the log, where run could not:
// each fault of a file is a line, and with JSON every line is JSON, the last one too.
func logged(w io.Writer, log *slog.Logger, format string, err error) error {
	if faults, ok := errors.AsType[config.Faults](err); ok {
		if format != "json" {
			fmt.Fprintln(w, complaint(w, faults.Error()))
			return fmt.Errorf("%w: %w", errFile, errSilent)
		}
		for _, f := range faults {
			log.Error("bad configuration",
				"file", f.Path, "line", f.Line, "col", f.Col, "key", f.Key, "message", f.Message)
		}
		return fmt.Errorf("%w: %w", errFile, errSilent)
	}
	// run would print it as text, which is no line of JSON. errSilent keeps it from doing so; the exit
	// code stays that of err.
	if err != nil && format == "json" {
		log.Error("meshd ends", "error", err)
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	return err
}

// newLogger returns the daemon's log. The journal gets lines of its own form.
func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var options slog.HandlerOptions
	var parsed slog.Level
	if err := parsed.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("%w: --log-level must be debug, info, warn or error, not %q", errUsage, level)
	}
	options.Level = parsed
	switch format {
	case "text":
		if toJournal(w) {
			return slog.New(newJournalHandler(w, options)), nil
		}
		return slog.New(slog.NewTextHandler(w, &options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &options)), nil
	}
	return nil, fmt.Errorf("%w: --log-format must be text or json, not %q", errUsage, format)
}

// stateUsage explains --state.
const stateUsage = "`folder` that survives restarts (default $STATE_DIRECTORY,\n" +
	"/var/lib/meshd, or SOCKET.state with another --socket)"
