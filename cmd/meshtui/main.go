// Command meshtui shows a running meshd in a terminal.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/tui"
)

// version is set when a release is built.
var version = "0.1.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
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

var errUsage = errors.New("usage")

const exitUsage = 2

func exitCode(err error) int {
	if errors.Is(err, errUsage) {
		return exitUsage
	}
	return control.ExitCode(err)
}

// flags are what the command line asks for.
type flags struct {
	socket             string
	host               string
	interval           time.Duration
	once, json, stream bool
	ascii              bool
}

func newCommand(stdin, stdout *os.File) *cobra.Command {
	f := &flags{}
	cmd := &cobra.Command{
		Use:   "meshtui",
		Short: "Show the mesh at a glance",
		Long: `meshtui shows what the meshd of this host tells: who is up, how far and how lossy, what is sent and
what is lost, and what happened. Press ? for the keys. Where its output is no terminal it prints the state once.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%w: there are no arguments, only flags: %q", errUsage, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.show(cmd.Context(), stdin, stdout, cmd.OutOrStdout())
		},
	}
	cmd.SetVersionTemplate("meshtui {{.Version}}\n")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	set := cmd.Flags()
	set.StringVar(&f.socket, "socket", control.DefaultSocket, "control socket `path`")
	set.StringVar(&f.host, "host", "", "watch the meshd of another host, `NAME`, by running meshtui there over ssh")
	set.DurationVar(&f.interval, "interval", time.Second, "`time` from one snapshot to the next")
	set.BoolVar(&f.once, "once", false, "print the state as text, once")
	set.BoolVar(&f.json, "json", false, "print the state as the API's object, once")
	set.BoolVar(&f.stream, "stream", false, "print snapshots and events as they come, a line of JSON each")
	set.BoolVar(&f.ascii, "ascii", false, "draw with ASCII alone")
	return cmd
}

// Bounds of --interval, which are those of the API.
const (
	minInterval = 100 * time.Millisecond
	maxInterval = time.Hour
)

func (f *flags) show(ctx context.Context, stdin, stdout *os.File, out io.Writer) error {
	if f.once && f.json || f.once && f.stream || f.json && f.stream {
		return fmt.Errorf("%w: only one of --once, --json and --stream", errUsage)
	}
	if f.interval < minInterval || f.interval > maxInterval {
		return fmt.Errorf("%w: --interval must be %v to %v, not %v", errUsage, minInterval, maxInterval, f.interval)
	}
	dashboard := !f.once && !f.json && !f.stream && text.IsTerminal(stdin) && text.IsTerminal(stdout) && os.Getenv("TERM") != "" && os.Getenv("TERM") != "dumb"
	var watcher tui.Watcher
	var asker tui.Asker
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
		watcher, asker = client, client
	}
	switch {
	case f.stream:
		return stream(ctx, watcher, f.interval, out)
	case !dashboard:
		return once(ctx, watcher, f, out)
	}
	return run1(ctx, tui.Options{
		Watcher: watcher, Asker: asker, Where: where, Interval: f.interval, Version: version,
		Colour: os.Getenv("NO_COLOR") == "", ASCII: f.ascii, Terminal: stdout,
	}, stdin, stdout)
}

// framesPerSecond bounds how often the screen is looked at; what changes is drawn.
const framesPerSecond = 10

// run1 runs the dashboard until somebody quits or ctx ends. The screen is as it was
// before in either case.
func run1(ctx context.Context, o tui.Options, stdin, stdout *os.File) error {
	model := tui.New(o)
	before, err := unix.IoctlGetTermios(int(stdin.Fd()), unix.TCGETS)
	if err != nil {
		return fmt.Errorf("read the terminal's settings: %w", err)
	}
	program := tea.NewProgram(model, tea.WithInput(stdin), tea.WithOutput(stdout), tea.WithAltScreen(), tea.WithFPS(framesPerSecond), tea.WithoutSignalHandler())
	ended := make(chan error, 1)
	go func() {
		_, err := program.Run()
		ended <- err
	}()
	defer model.Close()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		go program.Quit() // which waits for a terminal that takes nothing
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(quitTimeout):
		return unix.IoctlSetTermios(int(stdin.Fd()), unix.TCSETS, before)
	}
}

// quitTimeout is how long a terminal may take nothing, after ^S or behind an ssh that
// stands still, before the program ends without drawing it anew.
const quitTimeout = time.Second

// answerTimeout bounds the wait for a first snapshot.
const answerTimeout = 10 * time.Second

var errEnough = errors.New("enough")

// once prints the first snapshot.
func once(ctx context.Context, w tui.Watcher, f *flags, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var status *control.Status
	err := w.Watch(ctx, maxInterval, false, func(line control.Watched) error {
		if status = line.Status; status != nil {
			return errEnough
		}
		return nil
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("meshd does not answer within %v: it hangs, or was stopped: %w", answerTimeout, context.DeadlineExceeded)
	case !errors.Is(err, errEnough) && err != nil:
		return err
	case status == nil:
		return errors.New("meshd ended the connection before it told its state: try again")
	case f.json:
		return json.NewEncoder(out).Encode(status)
	}
	return tui.Plain(out, *status, time.Now(), f.ascii)
}

// stream prints each line as it comes, those of the past first.
func stream(ctx context.Context, w tui.Watcher, interval time.Duration, out io.Writer) error {
	encoder := json.NewEncoder(out)
	err := w.Watch(ctx, interval, true, func(line control.Watched) error { return encoder.Encode(line) })
	if ctx.Err() != nil || errors.Is(err, syscall.EPIPE) {
		return nil // whoever read has enough
	}
	if err == nil {
		return fmt.Errorf("%w any more: the stream has ended", control.ErrNotRunning)
	}
	return err
}
