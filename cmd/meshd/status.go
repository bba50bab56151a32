package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/page"
)

// askTimeout bounds a request to the daemon, which answers in milliseconds.
const askTimeout = 5 * time.Second

// reloadTimeout bounds a reload, which waits for the kernel.
const reloadTimeout = 30 * time.Second

// A viewer is a command line of `meshd status`.
type viewer struct {
	*globals
	all, verbose bool
	check        optional // empty: not asked for
	watch        watch
}

// statusCommand returns `meshd status`. Without --check it exits with 0 whatever the health, if the daemon
// answers.
func statusCommand(g *globals) *cobra.Command {
	v := &viewer{globals: g}
	cmd := &cobra.Command{
		Use:   "status [--check [ready|peers]] [--watch [INTERVAL]]",
		Short: "Show the mesh as the running meshd sees it",
		Long: `Show how this node is and why, its problems and what to do about them, then its peers and what
it is made of. Peers that are not well come first; beyond 24 rows, peers that are up are only counted.
If the screen is too short, the problems stand at its end.

--check prints nothing: exit code 0 says that the health is OK, 1 that it is not. "--check ready" asks
whether this node forwards packets as its file says, "--check peers" whether packets pass to every peer
that is not in maintenance.

--watch shows the status again and again, every 2 seconds by default, with rates in place of sums, until q
or Ctrl-C. In a pipe it prints one status after the other, with --json one object a line.`,
		Example: "  meshd status --check && echo well\n  meshd status -w 5",
		Args:    v.words,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if cmd.Flags().Changed("check") {
				return []string{checkReady, checkPeers}, cobra.ShellCompDirectiveNoFileComp
			}
			return v.watch.complete(args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return v.run(cmd) },
	}
	flags := cmd.Flags()
	flags.BoolVarP(&v.all, "all", "a", false, "show every peer")
	flags.BoolVarP(&v.verbose, "verbose", "v", false, "add offloads, batches, and what is left to user space")
	flags.Var(&v.check, "check", "print nothing: exit code 0 means OK; ready and peers ask about a part")
	v.watch.flag(cmd)
	flags.Lookup("check").NoOptDefVal = checkHealth
	choices(cmd, "check", checkHealth, checkReady, checkPeers)
	return cmd
}

// Words of --check.
const (
	checkHealth = "health"
	checkReady  = "ready"
	checkPeers  = "peers"
)

// optional is the value of a flag whose value may be left out. It may also stand in the next word, as people
// expect: `--check ready`, `-w 5`.
type optional string

// String implements pflag.Value.
func (o *optional) String() string { return string(*o) }

// Set implements pflag.Value.
func (o *optional) Set(text string) error { *o = optional(text); return nil }

// Type implements pflag.Value.
func (o *optional) Type() string { return "word" }

// words gives the words of the command line that are no flags to the flags that they follow, and checks both.
func (v *viewer) words(cmd *cobra.Command, args []string) error {
	for _, word := range args {
		switch {
		case v.check == checkHealth && (word == checkReady || word == checkPeers):
			v.check = optional(word)
		case v.check == "" && v.watch.take(word):
		default:
			return fmt.Errorf("%w: `meshd status` does not take %q", errUsage, word)
		}
	}
	switch v.check {
	case "", checkHealth, checkReady, checkPeers:
	default:
		return fmt.Errorf("%w: --check is for %s, %s or nothing, and not %q", errUsage, checkReady, checkPeers,
			v.check)
	}
	if v.check != "" && v.watch.asked() {
		return fmt.Errorf("%w: --watch does not go with --check", errUsage)
	}
	return v.watch.check()
}

// run does what the command line asks for.
func (v *viewer) run(cmd *cobra.Command) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	client := v.client()
	defer client.Close()
	switch {
	case v.check != "":
		return v.verdict(ctx, client, out)
	case v.watch.asked():
		return v.follow(cmd, client)
	}
	status, err := ask(ctx, client.Status)
	if err != nil {
		return err
	}
	if v.json {
		return printJSON(out, status)
	}
	w, o := v.options(out)
	return page.Status(w, status, o)
}

// ask asks a question with a deadline.
func ask[T any](ctx context.Context, question func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return question(ctx)
}

// options say how pages look.
func (v *viewer) options(out io.Writer) (io.Writer, page.Options) {
	w, o := page.On(out)
	o.All, o.Verbose, o.Now = v.all, v.verbose, time.Now()
	return w, o
}

// verdict answers --check by its exit code, and with --json by an object.
func (v *viewer) verdict(ctx context.Context, client *control.Client, out io.Writer) error {
	var ok bool
	var err error
	if v.check == checkReady {
		_, err = ask(ctx, func(ctx context.Context) (any, error) { return nil, client.Ready(ctx) })
		if ok = err == nil; !ok && control.ExitCode(err) == exitNo { // an answer, and no failure to get one
			err = nil
		}
	} else {
		var s control.Status
		if s, err = ask(ctx, client.Status); v.check == checkPeers {
			ok = allServe(s.Peers)
		} else {
			ok = s.Health.Level == control.OK && s.Node != ""
		}
	}
	if err == nil && v.json {
		err = printJSON(out, control.Ready{OK: ok})
	}
	if err == nil && !ok {
		return errSilent
	}
	return err
}

// allServe tells whether packets pass to every peer that is not in maintenance.
func allServe(peers []control.Peer) bool {
	for _, p := range peers {
		if !p.Serves() && p.Drain == nil {
			return false
		}
	}
	return true
}

// follow shows the status again and again, with rates from the second time on.
func (v *viewer) follow(cmd *cobra.Command, client *control.Client) error {
	var before *control.Status
	return v.watch.show(cmd, v.json, func(ctx context.Context) (looked, error) {
		status, err := ask(ctx, client.Status)
		was := before
		before = nil
		if err == nil {
			before = &status
		}
		return looked{status, func(w io.Writer, o page.Options) error {
			o.All, o.Verbose, o.Now, o.Before = v.all, v.verbose, time.Now(), was
			return page.Status(w, status, o)
		}}, err
	})
}
