// Command meshtui shows a running meshd in a terminal, or prints what it tells.
//
//	main -> run -> execute   one command line; the only place that exits is main
//	flags.show               decides what is shown, and who is asked: a socket or ssh
//	runDashboard             the terminal (dashboard.go)
//	once, stream             text and JSON (print.go)
//	remote                   the meshd of another host (remote.go)
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
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/tui"
	"example.org/meshd/internal/typed"
)

// version is set when a release is built.
var version = "0.2.0-dev"

// main is the only place that exits.
func main() {
	// SIGHUP is what a dropped ssh sends: the program must not stay without a terminal. SIGQUIT would by
	// itself end the program at once, and leave a terminal without echo in the alternate screen.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP,
		syscall.SIGQUIT)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(exitCode(err))
}

// run executes one command line. It prints the error it returns. All output passes a
// text.Writer, since most of it is text of other hosts; only the dashboard has the
// terminal itself, and cleans text where it comes in.
func run(ctx context.Context, args []string, stdin, stdout *os.File, errs io.Writer) error {
	out, stderr := text.NewWriter(stdout), text.NewWriter(errs)
	err := execute(ctx, args, stdin, stdout, out, stderr)
	return cmp.Or(err, out.Flush(), stderr.Flush())
}

// execute runs a command line; out writes to stdout.
func execute(ctx context.Context, args []string, stdin, stdout *os.File, out, stderr io.Writer) error {
	cmd := newCommand(stdin, stdout)
	cmd.SetArgs(args)
	cmd.SetOut(out)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintf(stderr, "meshtui: %v\n", err)
	}
	if errors.Is(err, errUsage) {
		fmt.Fprintln(stderr, "meshtui: `meshtui --help` lists flags and keys")
	}
	return err
}

// errUsage is in every error of a command line that makes no sense.
var errUsage = errors.New("usage")

// exitUsage is the exit code for it; all others are those of meshd (control.ExitCode).
const exitUsage = 2

// exitCode returns the exit code for what run returned.
func exitCode(err error) int {
	if errors.Is(err, errUsage) {
		return exitUsage
	}
	return control.ExitCode(err)
}

// flags are what the command line asks for.
type flags struct {
	socket             string
	host               string // empty: the meshd at socket
	interval           typed.Span
	once, json, stream bool // one of them at most
	changes            bool // of stream
	ascii              bool
	version            bool
}

// newCommand returns the command line. Files are passed on as such and not as writers: only
// a file can be asked whether it is a terminal.
func newCommand(stdin, stdout *os.File) *cobra.Command {
	f := &flags{interval: typed.Span(time.Second)}
	cmd := &cobra.Command{
		Use:   "meshtui",
		Short: "Show the mesh in a terminal",
		Long: `meshtui shows the state of the meshd on this host: peers with their state, RTT and loss, traffic,
drops and events, problems first. Press ? for the keys. If standard output is not a terminal, meshtui
prints the state once and exits.`,
		SilenceErrors: true, // execute prints them
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%w: meshtui takes flags and no arguments: %q", errUsage, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.version {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "meshtui", version)
				return err
			}
			return f.show(cmd.Context(), stdin, stdout, cmd.OutOrStdout())
		},
	}
	plainSwitches(cmd)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	set := cmd.Flags()
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	set.StringVar(&f.socket, "socket", control.DefaultSocket, "control socket `path`")
	set.StringVar(&f.host, "host", "", "watch the meshd of host `NAME` by running meshtui there over ssh")
	complete(cmd, "host") // and no files
	set.Var(&f.interval, "interval", "`time` between snapshots, such as 0.5 or 2s")
	complete(cmd, "interval", "0.5", "1s", "5s")
	set.BoolVar(&f.once, "once", false, "print the state once, as text")
	set.BoolVar(&f.json, "json", false, "print the state once, as the object of the API")
	set.BoolVar(&f.stream, "stream", false, "print snapshots and events as they arrive, one JSON object a line")
	set.BoolVar(&f.changes, "changes", false, "with --stream: after the first snapshot print what has changed")
	set.BoolVar(&f.ascii, "ascii", false, "draw with ASCII characters only")
	set.BoolVarP(&f.version, "version", "V", false, "print the version")
	set.BoolVarP(&f.version, "print-version", "v", false, "") // as it was
	set.Lookup("print-version").Hidden = true
	return cmd
}

// complete proposes values of a flag to shells, in their order; without any, shells would propose files.
func complete(cmd *cobra.Command, flag string, values ...string) {
	fixed := cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder)
	if err := cmd.RegisterFlagCompletionFunc(flag, fixed); err != nil {
		panic(err) // the command has no such flag
	}
}

// plainSwitches removes "[=true|false]", which pflag prints behind each switch of the help text; blanks keep
// its columns. `meshd --help` does the same.
func plainSwitches(cmd *cobra.Command) {
	const values = "[=true|false]"
	cobra.AddTemplateFunc("plainSwitches", func(usages string) string {
		return strings.ReplaceAll(usages, values, strings.Repeat(" ", len(values)))
	})
	cmd.SetUsageTemplate(strings.ReplaceAll(cmd.UsageTemplate(), ".FlagUsages", ".FlagUsages | plainSwitches"))
}

// Bounds of --interval, which are those of the API.
const (
	minInterval = 100 * time.Millisecond
	maxInterval = time.Hour
)

// check returns an error for flags that make no sense.
func (f *flags) check() error {
	if f.once && f.json || f.once && f.stream || f.json && f.stream {
		return fmt.Errorf("%w: only one of --once, --json and --stream", errUsage)
	}
	if f.changes && (!f.stream || f.host != "") {
		return fmt.Errorf("%w: --changes goes with --stream, and not with --host", errUsage)
	}
	if every := time.Duration(f.interval); every < minInterval || every > maxInterval {
		return fmt.Errorf("%w: --interval must be %s to %s, not %s", errUsage, typed.Brief(minInterval),
			typed.Brief(maxInterval), typed.Brief(every))
	}
	return nil
}

// dashboard tells whether the screens are shown. They need a terminal for both keys and
// pictures, one that can move its cursor.
func (f *flags) dashboard(stdin, stdout *os.File) bool {
	term := os.Getenv("TERM")
	return !f.once && !f.json && !f.stream && text.IsTerminal(stdin) && text.IsTerminal(stdout) &&
		term != "" && term != "dumb"
}

// show does what the flags ask for. out writes to stdout, with all text made harmless.
func (f *flags) show(ctx context.Context, stdin, stdout *os.File, out io.Writer) error {
	if err := f.check(); err != nil {
		return err
	}
	dashboard := f.dashboard(stdin, stdout)
	var watcher tui.Watcher
	var asker tui.Asker // stays nil for another host: ssh carries one stream and no questions
	where := f.socket
	if f.host != "" {
		r, err := newRemote(f.host, dashboard)
		if err != nil {
			return err
		}
		watcher, where = r, f.host
	} else {
		client := control.NewClient(f.socket)
		defer client.Close()
		client.Tidy = dashboard // other formats are what the daemon says, made harmless as they are written
		watcher, asker = client, client
		if f.changes {
			watcher = changing{client}
		}
	}
	switch {
	case f.stream:
		return stream(ctx, watcher, time.Duration(f.interval), out)
	case !dashboard:
		return once(ctx, watcher, f, out)
	}
	width, height := fallbackSize(stdin, stdout, os.Getenv)
	return runDashboard(ctx, tui.Options{
		Watcher: watcher, Tidy: true, Asker: asker, Where: where, Interval: time.Duration(f.interval),
		Version: version,
		Colour:  text.HasColours(os.Getenv), ASCII: f.ascii || !text.UTF8Locale(os.Getenv), Terminal: stdout,
		Width: width, Height: height,
	}, stdin, stdout)
}
