package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/push"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/typed"
)

// pushing is what the command line says of a push.
type pushing struct {
	all, yes bool
	canary   int
	require  string
	wait     typed.Span
	command  string
}

// pushCommand returns `meshd push`.
func pushCommand(g *globals) *cobra.Command {
	o := pushing{wait: typed.Span(2 * time.Minute)}
	cmd := &cobra.Command{
		Use:   "push [HOST...] FILE",
		Short: "Give a file to many hosts, and take it back where it does harm",
		Long: `Give FILE to hosts over ssh: plan on all of them, ask once, apply it with a deadline, look from
every host whether its peers are as well as before, and confirm it everywhere. If one host refuses the
file, none is changed. If a host is worse off, all go back: those that cannot be reached any more do so by
themselves.

HOST is a name for ssh, which must log in without a password. --all stands for all nodes of FILE, by their
names. A host that cannot be reached is named and left alone; with "--require all" it stops the push. On a
terminal each step of each host is a line, else it is a line of JSON.`,
		Example: "  meshd push --all --canary 1 mesh.toml\n  meshd push root@edge-1 root@edge-2 mesh.toml --yes",
		Args:    arguments(1, 10_000),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault // hosts or a file
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if signals := gone(); len(signals) > 0 { // they end a push as Ctrl-C does
				ctx, stop := signal.NotifyContext(cmd.Context(), signals...)
				defer stop()
				cmd.SetContext(ctx)
			}
			return o.run(cmd, g, args)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.all, "all", false, "push to all nodes of the file")
	flags.BoolVar(&o.yes, "yes", false, "do not ask")
	flags.IntVar(&o.canary, "canary", 0, "begin with the first `N` hosts")
	flags.StringVar(&o.require, "require", "", "`all`: change nothing if a host cannot be reached")
	flags.Var(&o.wait, "confirm", "hosts go back by themselves after this `time`")
	flags.StringVar(&o.command, "command", "meshd", "run meshd there by these `words`, such as \"sudo meshd\"")
	choices(cmd, "require", "all")
	return cmd
}

// run pushes the file that args end with.
func (o pushing) run(cmd *cobra.Command, g *globals, args []string) error {
	names, file := args[:len(args)-1], args[len(args)-1]
	switch {
	case o.all == (len(names) > 0):
		return fmt.Errorf("%w: name hosts, or use --all", errUsage)
	case o.require != "" && o.require != "all":
		return fmt.Errorf("%w: --require must be \"all\"", errUsage)
	case o.canary < 0:
		return fmt.Errorf("%w: --canary must not be negative", errUsage)
	case time.Duration(o.wait) < 10*time.Second || time.Duration(o.wait) > 24*time.Hour:
		return fmt.Errorf("%w: --confirm must be 10s to 24h", errUsage)
	}
	doc, path, err := readFile(cmd.Context(), cmd.InOrStdin(), file, readAny)
	if err != nil {
		return err
	}
	c, err := config.Parse(path, doc)
	if err != nil { // each fault has its line
		fmt.Fprintln(cmd.ErrOrStderr(), err)
		return errSilent
	}
	if o.all {
		for _, n := range c.Nodes {
			names = append(names, n.Name)
		}
	}
	p := push.Push{Doc: doc, SHA256: sumOf(doc), Wait: time.Duration(o.wait), Canary: o.canary,
		All: o.require == "all", Ask: o.asker(cmd), Tell: teller(cmd, g)}
	if p.Hosts, err = o.hosts(cmd, g, names); err != nil {
		return err
	}
	return p.Run(cmd.Context())
}

// gone are the signals of a terminal or a reader that is gone.
func gone() (all []os.Signal) {
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGPIPE} {
		if !signal.Ignored(s) { // as nohup has it
			all = append(all, s)
		}
	}
	return all
}

// sumOf returns the SHA-256 of a file, as the API has it.
func sumOf(doc []byte) string {
	sum := sha256.Sum256(doc)
	return hex.EncodeToString(sum[:])
}

// hosts returns the hosts of some names, each once. The node that runs here needs no ssh.
func (o pushing) hosts(cmd *cobra.Command, g *globals, names []string) (all []push.Host, err error) {
	client := g.client()
	defer client.Close()
	here, _ := client.Status(cmd.Context()) // without a meshd here all are elsewhere
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		if name == here.Node && name != "" {
			all = append(all, push.Here(name, self, "--socket", g.socket, "--config", g.config))
			continue
		}
		remote, err := push.OverSSH(name, o.command)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUsage, err)
		}
		all = append(all, remote)
	}
	return all, nil
}

// lined tells whether a person reads the output.
func lined(cmd *cobra.Command, g *globals) bool {
	safe, ok := cmd.OutOrStdout().(*text.Writer)
	if !ok {
		return false
	}
	file, ok := safe.Unwrap().(*os.File)
	return ok && !g.json && text.IsTerminal(file)
}

// asker returns what asks whether to go on.
func (o pushing) asker(cmd *cobra.Command) func(changing, unchanged, unreachable int) bool {
	return func(changing, unchanged, unreachable int) bool {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s to change, %d unchanged, %d unreachable\n",
			words.Count(changing, "host"), unchanged, unreachable)
		if o.yes {
			return true
		}
		fmt.Fprint(cmd.ErrOrStderr(), "Go on? [y/N] ")
		line, err := attend(cmd.Context(), func() ([]byte, error) {
			return bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 100)).ReadBytes('\n')
		})
		if err != nil && !errors.Is(err, io.EOF) { // as by Ctrl-C
			fmt.Fprintln(cmd.ErrOrStderr())
		}
		answer := strings.ToLower(strings.TrimSpace(string(line))) // none is a no
		return answer == "y" || answer == "yes"
	}
}

// teller returns what prints how steps have ended.
func teller(cmd *cobra.Command, g *globals) func(push.News) {
	out := cmd.OutOrStdout()
	people := lined(cmd, g)
	return func(n push.News) {
		if !people {
			_ = json.NewEncoder(out).Encode(n) // what has happened stays so if nobody reads it
			return
		}
		line := fmt.Sprintf("%-20s %-8s %s", n.Host, n.Step, n.State)
		if n.Text != "" {
			line += ": " + n.Text
		}
		fmt.Fprintln(out, line)
		for _, change := range n.Changes {
			fmt.Fprintln(out, "    "+change)
		}
	}
}
