// Command meshd joins Linux hosts into one routed pod network.
//
// It is thin. A file here holds one command or a few that belong together: flags and help, a call
// into a room, and what people or scripts get to see of the result. Only `run` is the daemon; `check`
// and `init` need none; `cleanup` refuses while one runs; all others ask a running one through
// package control, and show its answer as it is with --json or in the words of package words.
//
// A command returns an error and never exits: main does, with the code for that error. Data goes to
// stdout and everything else to stderr, so that output can be piped.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/begin"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/daemon"
	"example.org/meshd/internal/text"
)

// main is the only place that exits.
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(exitCode(err))
}

// run executes one command line and prints the error that it returns. All output passes a
// text.Writer, since much of it is text of files and of other hosts.
func run(ctx context.Context, args []string, out, errs io.Writer) error {
	stdout, stderr := text.NewWriter(out), text.NewWriter(errs)
	err := execute(ctx, args, stdout, stderr)
	// A flush that fails, as on a full disk, must not end with exit code 0.
	return cmp.Or(err, stdout.Flush(), stderr.Flush())
}

// execute is run with safe writers. With --json an error is an object on stdout, too, so that a
// script that parses stdout always finds JSON there.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := newRoot()
	root.SetArgs(commandFirst(root, args))
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil || errors.Is(err, errSilent) {
		return err
	}
	if asJSON, _ := root.PersistentFlags().GetBool("json"); asJSON {
		// If stdout is gone, the line on stderr is what is left to say it with.
		_ = printJSON(stdout, map[string]control.Error{"error": {Code: errorCode(err), Message: err.Error()}})
	}
	fmt.Fprintln(stderr, complaint(stderr, fmt.Sprintf("meshd: %v", err)))
	if errors.Is(err, errUsage) {
		fmt.Fprintf(stderr, "meshd: see `%s --help`\n", cmd.CommandPath())
	}
	return err
}

// Exit codes, as the manual page lists them.
const (
	exitNo         = 1  // invalid, down, no reply, rejected
	exitUsage      = 2  // of the command line; for plan: the file cannot be applied
	exitNotRunning = 3  // no daemon answers
	exitPermission = 4  // not permitted
	exitMismatch   = 5  // the daemon has another version of the API
	exitTimeout    = 6  // not in time
	exitConfig     = 78 // EX_CONFIG of sysexits.h: meshd.service does not restart after it
)

// What a command returns besides the errors of the rooms that it calls.
var (
	errUsage  = errors.New("usage")
	errSilent = errors.New("no") // the command has printed what there is to say; exit code 1
	errFile   = errors.New("file")
	errPlan   = errors.New("no plan")
)

// exitCode returns the exit code for what run returned.
func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage), errors.Is(err, errPlan): // before the causes that they wrap
		return exitUsage
	case errors.Is(err, begin.ErrPrivilege):
		return exitPermission
	case errors.Is(err, daemon.ErrConfig), errors.Is(err, errFile):
		return exitConfig
	}
	return control.ExitCode(err)
}

// errorCode returns the word for an error in the object that --json prints. The words are those of
// the API's errors where the API has one.
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

// globals are the values of the flags that every command has.
type globals struct {
	config string // path of the file
	socket string // path of the control socket
	json   bool
}

// client returns a client of the daemon that the command line names. JSON passes on what the daemon
// said; text for people is tidy, so that a name cannot pretend to be a line.
func (g *globals) client() *control.Client {
	c := control.NewClient(g.socket)
	c.Tidy = !g.json
	return c
}

// newRoot returns the command line of meshd.
func newRoot() *cobra.Command {
	g := &globals{}
	var told bool // the version is asked for
	root := &cobra.Command{
		Use:   "meshd",
		Short: "Join Linux hosts into one routed pod network",
		Long: `meshd joins the hosts listed in /etc/mesh.toml into one routed pod network.
Write the file with "meshd init", add hosts with "meshd init --add", check it with "meshd check",
copy it to every host, and start meshd there: "systemctl enable --now meshd".

Flags may stand before or after the command. Exit codes: 0 yes, 1 no (invalid, down,
no reply, rejected), 2 usage, 3 meshd is not running, 4 not permitted, 5 other version of the
API, 6 timed out, 78 "meshd run" has no valid file.`,
		// cobra would print errors itself, on its own terms and without the journal's priority.
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if told {
				return printVersion(g, cmd.OutOrStdout())
			}
			fmt.Fprintln(cmd.ErrOrStderr(), cmd.UsageString())
			return fmt.Errorf("%w: a command is missing", errUsage)
		},
		SuggestionsMinimumDistance: 2,
	}
	plainSwitches(root)
	root.Flags().BoolVarP(&told, "version", "V", false, "print the version of this program")
	root.Flags().BoolVarP(&told, "print-version", "v", false, "") // others have -v for it; status has its own
	root.Flags().Lookup("print-version").Hidden = true
	flags := root.PersistentFlags()
	flags.StringVarP(&g.config, "config", "c", config.DefaultPath, "configuration `file`")
	flags.StringVar(&g.socket, "socket", control.DefaultSocket, "control socket `path`")
	flags.BoolVar(&g.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return fmt.Errorf("%w: %w", errUsage, err)
	})
	root.AddCommand(
		runCommand(g), checkCommand(g), initCommand(g), keyCommand(g), cleanupCommand(g), // without a running one
		statusCommand(g), peersCommand(g), pingCommand(g), routeCommand(g), eventsCommand(g), waitCommand(g),
		topCommand(g), speedCommand(g), captureCommand(g),
		drainCommand(g), undrainCommand(g),
		planCommand(g), reloadCommand(g), versionCommand(g),
		applyCommand(g), confirmCommand(g), rollbackCommand(g), historyCommand(g), diffCommand(g),
		pushCommand(g),
		wireguardUserCommand(g),
		legacyForwardCommand(g), networkManagersCommand(g), bpfFolderCommand(),
		followFileCommand(g), // hidden, as the three before: for the service
	)
	noStrayFiles(root)
	return root
}

// plainSwitches removes "[=true|false]", which pflag prints behind each switch of a help text. Nearly all
// switches are given without a value, and the manual shows --sysctl=false where it is of use. Blanks take the
// place of what is removed, since pflag has aligned the lines by then.
func plainSwitches(root *cobra.Command) {
	addPlainSwitches()
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages", ".FlagUsages | plainSwitches"))
}

// addPlainSwitches tells cobra of the function, once: its list is a variable of the package, without a lock.
var addPlainSwitches = sync.OnceFunc(func() {
	const values = "[=true|false]"
	cobra.AddTemplateFunc("plainSwitches", func(usages string) string {
		return strings.ReplaceAll(usages, values, strings.Repeat(" ", len(values)))
	})
})

// unknownCommand rejects what is no command; cobra would print help and succeed.
func unknownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if similar := root.SuggestionsFor(args[0]); len(similar) > 0 {
		return fmt.Errorf("%w: unknown command %q: did you mean `meshd %s`?", errUsage, args[0],
			strings.Join(similar, "`, `meshd "))
	}
	return fmt.Errorf("%w: unknown command %q", errUsage, args[0])
}

// arguments accepts low to high arguments besides flags.
func arguments(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return fmt.Errorf("%w: expected `meshd %s`, got %s", errUsage, cmd.Use, words.Count(len(args), "argument"))
		}
		return nil
	}
}
