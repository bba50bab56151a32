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

func runCommand(g *globals) *cobra.Command {
	var node, state, level, format string
	var sysctl, check bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Join this host to the mesh until stopped",
		Long: `Join this host to the mesh until stopped (SIGTERM). An edit of the file takes effect by
itself; SIGHUP and "meshd reload" do not wait for one. A file that cannot be applied changes nothing.
SIGUSR2 starts the program that was installed meanwhile in the place of this one, without a gap in forwarding.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLogger(cmd.ErrOrStderr(), level, format)
			if err != nil {
				return err
			}
			hangup := make(chan os.Signal, 1) // one more while one is worked on is enough
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			replace := make(chan os.Signal, 1)
			signal.Notify(replace, syscall.SIGUSR2)
			defer signal.Stop(replace)
			run := daemon.Run
			if check {
				run = func(_ context.Context, o daemon.Options) error { return daemon.Check(o) }
			}
			err = run(cmd.Context(), daemon.Options{
				ConfigPath: g.config, Node: node, Socket: g.socket, State: daemon.StateFolder(state, g.socket), Version: version,
				Sysctl: sysctl, Reload: hangup, Replace: replace, Log: log,
			})
			if faults, ok := errors.AsType[config.Faults](err); ok {
				if format == "json" {
					for _, f := range faults {
						log.Error("bad configuration", "file", f.Path, "line", f.Line, "col", f.Col, "key", f.Key, "message", f.Message)
					}
				} else {
					fmt.Fprintln(cmd.ErrOrStderr(), complaint(cmd.ErrOrStderr(), faults.Error()))
				}
				return fmt.Errorf("%w: %w", errFile, errSilent)
			}
			if err != nil && format == "json" { // every line is JSON, the last one too
				log.Error("meshd ends", "error", err)
				return fmt.Errorf("%w: %w", errSilent, err)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&node, "node", "", "which `name` of the file this host is (default: found by its address)")
	flags.BoolVar(&sysctl, "sysctl", false, "let the interfaces of the mesh forward packets where they do not, and keep other networks apart")
	flags.StringVar(&state, "state", "", stateUsage)
	flags.BoolVar(&check, "check", false, "only tell whether this host could be joined now, and change nothing")
	flags.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&format, "log-format", "text", "text or json")
	choices(cmd, "log-level", "debug", "info", "warn", "error")
	choices(cmd, "log-format", "text", "json")
	return cmd
}

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var options slog.HandlerOptions
	var parsed slog.Level
	if err := parsed.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("%w: --log-level %q is not debug, info, warn or error", errUsage, level)
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
	return nil, fmt.Errorf("%w: --log-format %q is not text or json", errUsage, format)
}

// stateUsage explains --state.
const stateUsage = "`folder` for what has to survive the daemon (default $STATE_DIRECTORY or /var/lib/meshd; " +
	"with another --socket, SOCKET.state)"

// legacyForwardCommand is for the service, see packaging/meshd.service.
func legacyForwardCommand(g *globals) *cobra.Command {
	var node string
	cmd := &cobra.Command{
		Use:    "legacy-forward",
		Short:  "Accept forwarded pod traffic in iptables-legacy, where that is in use",
		Hidden: true,
		Args:   arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			warning, err := daemon.AcceptLegacy(g.config, node)
			if _, bad := errors.AsType[config.Faults](err); bad {
				return errSilent // the daemon says it
			}
			if warning != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "meshd: %s\n", warning)
			}
			return err
		},
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true}, // those of run, in MESHD_OPTS
	}
	cmd.Flags().StringVar(&node, "node", "", "as for run")
	return cmd
}
