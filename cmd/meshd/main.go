// Command meshd joins Linux hosts into one routed pod network.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/daemon"
	"example.org/meshd/internal/text"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(exitCode(err))
}

// run executes one command line. It prints the error it returns. All output passes a
// text.Writer, since much of it is text of files and of other hosts.
func run(ctx context.Context, args []string, out, errs io.Writer) error {
	stdout, stderr := text.NewWriter(out), text.NewWriter(errs)
	err := execute(ctx, args, stdout, stderr)
	return cmp.Or(err, stdout.Flush(), stderr.Flush())
}

func execute(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := newRoot()
	root.SetArgs(commandFirst(root, args))
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if asJSON, _ := root.PersistentFlags().GetBool("json"); asJSON && err != nil && !errors.Is(err, errSilent) {
		_ = printJSON(stdout, map[string]control.Error{"error": {Code: errorCode(err), Message: err.Error()}})
	}
	if err != nil && !errors.Is(err, errSilent) {
		fmt.Fprintln(stderr, complaint(stderr, fmt.Sprintf("meshd: %v", err)))
		if errors.Is(err, errUsage) {
			fmt.Fprintln(stderr, "meshd: `meshd --help` lists commands and flags")
		}
	}
	return err
}

// Exit codes, as the manual page lists them.
const (
	exitNo         = 1
	exitUsage      = 2
	exitNotRunning = 3
	exitPermission = 4
	exitMismatch   = 5
	exitTimeout    = 6
	exitConfig     = 78 // EX_CONFIG of sysexits.h: systemd need not try again
)

var (
	errUsage  = errors.New("usage")
	errSilent = errors.New("no") // everything has been said
	errFile   = errors.New("file")
	errPlan   = errors.New("no plan")
)

func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage), errors.Is(err, errPlan):
		return exitUsage
	case errors.Is(err, daemon.ErrPrivilege):
		return exitPermission
	case errors.Is(err, daemon.ErrConfig), errors.Is(err, errFile):
		return exitConfig
	}
	return control.ExitCode(err)
}

// errorCode names what --json says is wrong.
func errorCode(err error) string {
	switch exitCode(err) {
	case exitUsage:
		if errors.Is(err, errPlan) {
			return "rejected"
		}
		return "usage"
	case exitNotRunning:
		return "not_running"
	case exitPermission:
		return "not_permitted"
	case exitMismatch:
		return "api_mismatch"
	case exitTimeout:
		return "timeout"
	case exitConfig:
		return "bad_configuration"
	}
	return "failed"
}

// globals are the flags of every command.
type globals struct {
	config string
	socket string
	json   bool
}

// client returns a client of the daemon that the command line names. JSON says what the
// daemon said; text for people is tidy, so that a name cannot pretend to be a line.
func (g *globals) client() *control.Client {
	c := control.NewClient(g.socket)
	c.Tidy = !g.json
	return c
}

func newRoot() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:   "meshd",
		Short: "Join Linux hosts into one routed pod network",
		Long: `meshd joins the hosts listed in /etc/mesh.toml into one routed pod network.
Write the file with "meshd init", check it with "meshd check", copy it to every
host and start "meshd run" there, best as the service meshd.service.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintln(cmd.ErrOrStderr(), cmd.UsageString())
			return fmt.Errorf("%w: a command is missing", errUsage)
		},
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&g.config, "config", "c", config.DefaultPath, "configuration `file`")
	flags.StringVar(&g.socket, "socket", control.DefaultSocket, "control socket `path`")
	flags.BoolVar(&g.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	root.AddCommand(runCommand(g), legacyForwardCommand(g), bpfFolderCommand(), checkCommand(g), initCommand(), cleanupCommand(g), statusCommand(g), peersCommand(g), pingCommand(g), routeCommand(g),
		eventsCommand(g), waitCommand(g), planCommand(g), reloadCommand(g), versionCommand(g))
	return root
}

// commandFirst returns args with the name of the command in front: flags may stand
// before it, also those that only it has, which cobra would not find there.
func commandFirst(root *cobra.Command, args []string) []string {
	for i, arg := range args {
		if arg == "--" {
			break
		}
		for _, cmd := range root.Commands() {
			if cmd.Name() == arg && allFlags(cmd, args[:i]) {
				return slices.Concat([]string{arg}, args[:i], args[i+1:])
			}
		}
	}
	return args
}

// allFlags tells whether words are nothing but flags of a command, with their values.
func allFlags(cmd *cobra.Command, words []string) bool {
	for i := 0; i < len(words); i++ {
		if !strings.HasPrefix(words[i], "-") {
			return false
		}
		if takesValue(cmd, words[i]) {
			if i++; i == len(words) { // the name is the value
				return false
			}
		}
	}
	return true
}

// takesValue tells whether the word behind arg is its value.
func takesValue(cmd *cobra.Command, arg string) bool {
	name, long := strings.CutPrefix(arg, "--")
	if !long && (len(arg) < 2 || arg[0] != '-') || strings.Contains(arg, "=") {
		return false
	}
	for _, set := range []*pflag.FlagSet{cmd.Flags(), cmd.InheritedFlags()} {
		flag := set.Lookup(name)
		if !long {
			flag = set.ShorthandLookup(arg[len(arg)-1:]) // of "-fc" it is the last that may have one
		}
		if flag != nil {
			return flag.NoOptDefVal == ""
		}
	}
	return false
}

func unknownCommand(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: unknown command %q", errUsage, args[0])
	}
	return nil
}

// arguments demands between low and high arguments besides flags.
func arguments(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return fmt.Errorf("%w: it is `meshd %s`, not %d arguments", errUsage, cmd.Use, len(args))
		}
		return nil
	}
}
