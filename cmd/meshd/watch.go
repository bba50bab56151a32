package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/page"
	"example.org/meshd/internal/text"
	"example.org/meshd/internal/typed"
)

// A watch is --watch of a command line: something is shown again and again.
//
//	word      of the command line: empty, the default, or what stands behind the flag
//	look      asks the daemon once, and says how the answer is written
//	quitting  ends by Ctrl-C as everything does, and by q as people expect of what fills a screen
type watch struct {
	word     optional
	interval time.Duration
}

// watchDefault is the interval of --watch without one, and watchLeast the shortest.
const (
	watchDefault = "2s"
	watchLeast   = 100 * time.Millisecond
)

// flag gives a command the flag.
func (w *watch) flag(cmd *cobra.Command) {
	cmd.Flags().VarP(&w.word, "watch", "w", "show it again every `interval`, until q or Ctrl-C")
	cmd.Flags().Lookup("watch").NoOptDefVal = watchDefault
	choices(cmd, "watch", watchSpans...)
}

// watchSpans are what is proposed for --watch.
var watchSpans = []string{"1s", "2s", "5s", "10s"}

// complete completes a word behind the flags: the interval, if --watch has none yet.
func (w *watch) complete(args []string) ([]string, cobra.ShellCompDirective) {
	if w.word != watchDefault || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return watchSpans, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// take takes a word of the command line that is no flag; not taken if it is not for the flag.
func (w *watch) take(word string) (taken bool) {
	if w.word != watchDefault {
		return false
	}
	w.word = optional(word)
	return true
}

// asked tells whether the flag is given.
func (w *watch) asked() bool { return w.word != "" }

// check reads the interval.
func (w *watch) check() (err error) {
	if !w.asked() {
		return nil
	}
	if w.interval, err = typed.Duration(string(w.word)); err != nil {
		return fmt.Errorf("%w: --watch %w", errUsage, err)
	}
	if w.interval < watchLeast {
		return fmt.Errorf("%w: --watch needs %v at least", errUsage, watchLeast)
	}
	return nil
}

// A looked is an answer of the daemon, and how it is written for people.
type looked struct {
	answer any
	write  func(w io.Writer, o page.Options) error
}

// show shows what look returns until ctx ends, or q is typed, neither of which is an error. On a screen it
// goes on when the daemon does not answer: whoever watches a restart wants to see its end, too.
func (w *watch) show(cmd *cobra.Command, asJSON bool, look func(ctx context.Context) (looked, error)) error {
	in, _ := cmd.InOrStdin().(*os.File)
	ctx, restore := quitting(cmd.Context(), in)
	defer restore()
	out := cmd.OutOrStdout()
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	for {
		found, err := look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		screen, o := page.On(out)
		switch {
		case err != nil && (o.Width == 0 || asJSON || errors.Is(err, control.ErrPermission) ||
			errors.Is(err, control.ErrMismatch)): // which do not pass
			return err
		case err != nil:
			failed := text.Clean(err.Error())
			err = page.Show(screen, o, func(w io.Writer, _ page.Options) error {
				_, err := fmt.Fprintf(w, "meshd: %s\n", failed)
				return err
			})
		case asJSON:
			err = json.NewEncoder(out).Encode(found.answer)
		default:
			err = page.Show(screen, o, found.write)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// quitting returns a context that ends with ctx, when q is typed at a terminal, and by SIGQUIT, which would
// leave the terminal without echo. The caller calls restore, which gives the terminal back as it was. A
// program in the background leaves the terminal to whoever has it.
func quitting(ctx context.Context, in *os.File) (_ context.Context, restore func()) {
	ctx, cancel := context.WithCancel(ctx)
	if in == nil || !text.IsTerminal(in) || !foreground(in) {
		return ctx, cancel
	}
	before, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	woken, wake, pipeErr := os.Pipe()
	if err != nil || pipeErr != nil {
		return ctx, cancel // Ctrl-C is left
	}
	single := *before // each key at once, and not shown; Ctrl-C stays a signal
	single.Lflag &^= unix.ICANON | unix.ECHO
	single.Cc[unix.VMIN], single.Cc[unix.VTIME] = 1, 0
	set := func() {
		if foreground(in) {
			_ = unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, &single)
		}
	}
	set()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGQUIT, syscall.SIGCONT) // a shell changes the terminal while we are stopped
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				if s == syscall.SIGQUIT {
					cancel()
				}
				set()
			case <-ended:
				return
			}
		}
	}()
	go func() {
		defer close(ended)
		if typedQuit(in, woken) {
			cancel()
		}
	}()
	return ctx, func() {
		cancel()
		wake.Close()
		<-ended
		signal.Stop(signals)
		woken.Close()
		if foreground(in) {
			_ = unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, before)
		}
	}
}

// foreground tells whether this program may use a terminal: one that would have to wait is stopped by the
// kernel. A terminal that is not the one of this session is anybody's.
func foreground(terminal *os.File) bool {
	group, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp()
}

// typedQuit reads keys until one of them is q, or woken is at its end.
func typedQuit(in, woken *os.File) bool {
	b := make([]byte, 64)
	for {
		poll := []unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN},
			{Fd: int32(woken.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err == unix.EINTR {
			continue
		} else if err != nil || poll[1].Revents != 0 {
			return false
		}
		n, err := unix.Read(int(in.Fd()), b)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 { // the terminal is gone
			return false
		}
		for _, key := range b[:n] {
			if key == 'q' || key == 'Q' {
				return true
			}
		}
	}
}
