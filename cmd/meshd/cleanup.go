package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/apply"
	"example.org/meshd/internal/begin"
	"example.org/meshd/internal/config"
	"example.org/meshd/internal/container"
	"example.org/meshd/internal/daemon"
	"example.org/meshd/internal/dataplane/auto"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/forwarding"
	"example.org/meshd/internal/lastgood"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/masq"
)

// cleanupCommand returns `meshd cleanup`, which packages run when they are removed. It needs no state
// of the run that it cleans up after: every room knows its own things by their marks.
func cleanupCommand(g *globals) *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove the interfaces, routes, rules and files that meshd made",
		Long: `Remove what "meshd run" left behind: the interfaces with their addresses and routes,
the backstop routes, the programs of the kernel engine, the rules, the files for container runtimes
and the last good file. Forwarding that "meshd run --sysctl" turned on since boot is turned off again, unless
another program has asked for it meanwhile. A second run changes nothing. It refuses to run while
meshd or "meshd wireguard-user" does.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkStopped(cmd.Context(), g.socket); err != nil {
				return err
			}
			// Half of the steps would fail without, and leave rules without their interface.
			if err := begin.CheckPrivileges(); err != nil {
				return err
			}
			c := cleaner{
				config: g.config,
				note:   daemon.ContainerNote(g.socket),
				state:  stateFolder(state, g.socket),
				out:    cmd.ErrOrStderr(),
			}
			return c.run(cmd.Context(), cleanupSteps)
		},
	}
	cmd.Flags().StringVar(&state, "state", "", stateUsage)
	return cmd
}

// A cleaner knows where a meshd has left things, and tells what it has removed.
type cleaner struct {
	config string    // path of the file
	note   string    // path of the list of files that were written for container runtimes
	state  string    // the folder for what survives the daemon
	out    io.Writer // a line for each thing that was removed
}

// A cleanupStep removes what one room has made.
type cleanupStep struct {
	what string // as an error names it
	do   func(context.Context, *cleaner) error
	// first tells that no later step may run if this one fails.
	first bool
}

// cleanupSteps are in this order for three reasons. The interfaces come first, since one that is
// in use shows that a meshd runs, and then everything must stay. Forwarding is turned off before
// the rules go, since the rules keep networks apart while the host forwards. What may hang, the
// files, stands behind what packets depend on.
var cleanupSteps = []cleanupStep{
	{what: "interfaces", first: true, do: removeInterfaces},
	{what: "backstop routes", do: removing("the backstop routes", link.CleanUpBackstops)},
	{what: "kernel engine", do: removing("the programs of the kernel engine", auto.CleanUp)},
	{what: "forwarding", do: func(_ context.Context, c *cleaner) error {
		did, err := forwarding.Restore(c.state)
		for _, line := range did {
			c.say(line)
		}
		return err
	}},
	{what: "masquerade rules", do: removing("the masquerade rules", masq.CleanUp)},
	{what: "filter rules", do: removing("the filter rules", filter.CleanUp)},
	{what: "iptables-legacy rules", do: removing("the rules in iptables-legacy", filter.CleanUpLegacy)},
	{what: "last good file", do: func(_ context.Context, c *cleaner) error {
		removed, err := lastgood.Forget(c.state)
		if removed {
			c.removed(lastgood.Path(c.state))
		}
		return errors.Join(err, apply.Forget(c.state))
	}},
	{what: "files", do: removeFiles},
}

// releasePatience is how long an interface may still be in use after meshd was stopped: systemd closes
// what it held for the service in a thread of its own (asynchronous_close), after `systemctl stop` has
// returned.
const releasePatience = 2 * time.Second

// removeInterfaces removes the interfaces once they are not in use any more.
func removeInterfaces(ctx context.Context, c *cleaner) error {
	for deadline := time.Now().Add(releasePatience); ; {
		removed, err := link.CleanUp("")
		for _, name := range removed {
			c.removed("interface " + name + " with its address and routes")
		}
		if !errors.Is(err, link.ErrInUse) || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(releasePatience / 40)
	}
}

// removing returns a step for a room that tells whether there was something to remove.
func removing(what string, cleanUp func() (removed bool, err error)) func(context.Context, *cleaner) error {
	return func(_ context.Context, c *cleaner) error {
		removed, err := cleanUp()
		if removed {
			c.removed(what)
		}
		return err
	}
}

// run takes all steps, and returns the errors of all that failed: whatever can be removed is.
func (c *cleaner) run(ctx context.Context, steps []cleanupStep) error {
	var errs []error
	for _, step := range steps {
		err := step.do(ctx, c)
		if err == nil {
			continue
		}
		errs = append(errs, fmt.Errorf("clean up %s: %w", step.what, err))
		if step.first {
			break
		}
	}
	return errors.Join(errs...)
}

// removed tells that something is gone.
func (c *cleaner) removed(what string) { c.say("removed " + what) }

// say writes to stderr: cleanup has no data to print.
func (c *cleaner) say(line string) { fmt.Fprintf(c.out, "meshd: %s\n", line) }

// checkStopped returns an error if a daemon listens on a control socket. It sends nothing and
// follows no symbolic link, since the service owns the folder and may have put anything there. A
// daemon with another socket is found by the interface that it uses.
func checkStopped(ctx context.Context, socket string) error {
	if info, err := os.Lstat(socket); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	switch {
	case err == nil:
		conn.Close()
		return errRunning
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR),
		errors.Is(err, syscall.ECONNREFUSED): // a dead daemon left it
		return nil
	}
	return fmt.Errorf("is meshd running? Stop it first, `systemctl stop meshd`: %w", err)
}

// errRunning tells that there is a daemon, whose things must stay.
var errRunning = errors.New("meshd is running: stop it first, `systemctl stop meshd`")

// removeFiles removes the files for container runtimes. The note lists them; the file in force may
// name one more, whose note a reboot has taken.
func removeFiles(ctx context.Context, c *cleaner) error {
	cniConf := ""
	if file, err := config.Load(c.config); err == nil { // a bad or missing file names none
		cniConf = file.Container.CNIConf
	}
	return c.inTime(ctx, filesPatience, func(report func(string, bool)) error {
		return container.CleanUp(c.note, cniConf, report)
	})
}

// filesPatience bounds the removal of files, which takes milliseconds.
const filesPatience = 5 * time.Second

// inTime runs a removal of files and tells of each file that is removed. Other users may have
// mounted a file system on the way, or a network has one that does not answer. Only the end of the
// process ends a call that hangs there, so it is left behind.
func (c *cleaner) inTime(
	ctx context.Context, patience time.Duration, remove func(report func(path string, removed bool)) error,
) error {
	type step struct {
		path    string
		removed bool
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	steps, done := make(chan step), make(chan error, 1)
	go func() {
		done <- remove(func(path string, removed bool) {
			select {
			case steps <- step{path, removed}:
			case <-ctx.Done(): // nothing reads any more, and the call must still be able to end
			}
		})
	}()
	at := c.note // where it hangs if it has not reported anything
	for {
		select {
		case s := <-steps:
			at = s.path
			if s.removed {
				c.removed(s.path)
			}
		case err := <-done:
			return err
		case <-ctx.Done():
			return fmt.Errorf("file system of %s does not answer (%w): this file and later ones are "+
				"still there; run `meshd cleanup` again when the file system answers", at, ctx.Err())
		}
	}
}

// bpfFolderCommand is for the service, see packaging/meshd.service: only root may make the folder,
// and meshd runs as another user.
func bpfFolderCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "bpf-folder USER",
		Short:  "Make the folder in the BPF file system where USER's meshd pins its programs",
		Hidden: true,
		Args:   arguments(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			owner, err := user.Lookup(args[0])
			if err != nil {
				return err
			}
			uid, uidErr := strconv.Atoi(owner.Uid)
			gid, gidErr := strconv.Atoi(owner.Gid)
			if err := errors.Join(uidErr, gidErr); err != nil {
				return err
			}
			return auto.GiveFolder(uid, gid)
		},
	}
}
