package main

import (
	"context"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/begin"
	"example.org/meshd/internal/handover"
	"example.org/meshd/internal/wireguard"
	"example.org/meshd/internal/wireguard/user"
)

// wireguardUserCommand returns `meshd wireguard-user`, WireGuard in user space. It takes the options of run,
// since the services share MESHD_OPTS.
func wireguardUserCommand(g *globals) *cobra.Command {
	var node, state, level, format string
	var strict, needed bool
	cmd := &cobra.Command{
		Use:   "wireguard-user",
		Short: "Run WireGuard in user space until stopped, for kernels without it",
		Long: `Run WireGuard in user space until stopped by SIGTERM or Ctrl-C, for kernels without it.
"meshd run" sets its keys and peers, as it does with the kernel's WireGuard, and a restart of "meshd run"
loses no session. The service meshd-wireguard runs it where it is needed. "wg show" shows it.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if needed {
				return wireguardNeeded(cmd.Context(),
					begin.Where{Path: g.config, State: stateFolder(state, g.socket), Strict: strict})
			}
			log, err := newLogger(cmd.ErrOrStderr(), level, format)
			if err != nil {
				return err
			}
			if err := begin.CheckPrivileges(); err != nil {
				return err
			}
			manager := handover.New(log)
			manager.Watch(func() string { return "WireGuard in user space" }, nil)
			err = user.Run(cmd.Context(),
				user.Options{Interface: wireguard.Interface, Log: log, Ready: manager.Ready})
			return logged(cmd.ErrOrStderr(), log, format, err)
		},
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
	}
	flags := cmd.Flags()
	flags.BoolVar(&needed, "needed", false, "only tell by the exit code whether the file asks for WireGuard\n"+
		"and the kernel has none")
	flags.StringVar(&node, "node", "", "as for run")
	flags.StringVar(&state, "state", "", "as for run")
	flags.BoolVar(&strict, "strict", false, "as for run")
	flags.StringVar(&level, "log-level", "info", "lowest `level` that is logged: debug, info, warn or error")
	flags.StringVar(&format, "log-format", "text", "`format` of the log: text or json")
	choices(cmd, "log-level", "debug", "info", "warn", "error")
	choices(cmd, "log-format", "text", "json")
	for _, name := range []string{"node", "state", "strict"} {
		flags.Lookup(name).Hidden = true
	}
	return cmd
}

// wireguardNeeded returns nil if the file that the daemon begins with asks for WireGuard or lists keys
// for it, and the kernel has none. A kernel that cannot be asked is no reason to run the helper: the
// daemon reports what it refuses.
func wireguardNeeded(ctx context.Context, where begin.Where) error {
	c, err := where.Chosen(ctx)
	if err != nil || !c.Sealed() && !c.Keyed() { // the daemon reports a bad file
		return errSilent
	}
	if there, err := wireguard.InKernel(); err != nil || there {
		return errSilent
	}
	return nil
}
