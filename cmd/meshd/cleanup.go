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

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/container"
	"example.org/meshd/internal/daemon"
	"example.org/meshd/internal/dataplane/auto"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/forwarding"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/masq"
)

func cleanupCommand(g *globals) *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove the interface, routes, rules and files that meshd made",
		Long: `Remove what an earlier "meshd run" left in the kernel: the TUN interface with its
address and its routes, the backstop routes, the kernel engine's programs and the rules;
and the files it wrote for containers. Forwarding that "meshd run --sysctl" turned on in this boot is turned off again, unless
somebody else wants it by now. Running it again changes nothing. It refuses while meshd runs.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := nobodyAnswers(cmd.Context(), g.socket); err != nil {
				return err
			}
			if err := daemon.CheckPrivileges(); err != nil {
				return err
			}
			// The interfaces first: one in use refuses, and then all should stay.
			removed, err := link.CleanUp("")
			for _, r := range removed {
				fmt.Fprintf(cmd.ErrOrStderr(), "meshd: removed interface %s with its address and routes\n", r)
			}
			if err != nil {
				return err
			}
			backstops, backstopsErr := link.CleanUpBackstops()
			if backstops {
				fmt.Fprintln(cmd.ErrOrStderr(), "meshd: removed the backstop routes")
			}
			programs, programsErr := auto.CleanUp()
			if programs {
				fmt.Fprintln(cmd.ErrOrStderr(), "meshd: removed the kernel engine's programs")
			}
			// While forwarding is on, the rules keep networks apart.
			forwarding, forwardingErr := forwarding.Restore(daemon.StateFolder(state, g.socket))
			for _, f := range forwarding {
				fmt.Fprintf(cmd.ErrOrStderr(), "meshd: %s\n", f)
			}
			rules, err := masq.CleanUp()
			if rules {
				fmt.Fprintln(cmd.ErrOrStderr(), "meshd: removed the masquerade rules")
			}
			cniConf := ""
			if c, err := config.Load(g.config); err == nil {
				cniConf = c.Container.CNIConf
			}
			filesErr := inTime(cmd.Context(), cmd.ErrOrStderr(), filesPatience, func(report func(string, bool)) error {
				return container.CleanUp(daemon.ContainerNote(g.socket), cniConf, report)
			})
			filters, filterErr := filter.CleanUp()
			legacy, legacyErr := filter.CleanUpLegacy()
			if filters || legacy {
				fmt.Fprintln(cmd.ErrOrStderr(), "meshd: removed the filter rules")
			}
			return errors.Join(err, backstopsErr, programsErr, forwardingErr, filesErr, filterErr, legacyErr)
		},
	}
	cmd.Flags().StringVar(&state, "state", "", stateUsage)
	return cmd
}

// nobodyAnswers is an error if a daemon listens on a control socket. It sends nothing, and follows
// no symbolic link: the service, whose folder it is, may have put anything there. A daemon that
// runs and is not found here is found by the interface that it uses.
func nobodyAnswers(ctx context.Context, socket string) error {
	if info, err := os.Lstat(socket); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	switch {
	case err == nil:
		conn.Close()
		return errors.New("meshd is running: stop it first, `systemctl stop meshd`")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ECONNREFUSED):
		return nil
	}
	return fmt.Errorf("is meshd running? Stop it first, `systemctl stop meshd`: %w", err)
}

// filesPatience is how long files may take that are removed in milliseconds.
const filesPatience = 5 * time.Second

// inTime has files removed, and tells of each that is. Files lie where other users may have
// mounted a file system, or a network has one that does not answer: a call that hangs is left
// behind, since nothing but the end of the process ends it.
func inTime(
	ctx context.Context, w io.Writer, patience time.Duration, remove func(report func(path string, removed bool)) error,
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
			case <-ctx.Done():
			}
		})
	}()
	at := "the file system of the control socket"
	for {
		select {
		case s := <-steps:
			at = s.path
			if s.removed {
				fmt.Fprintf(w, "meshd: removed %s\n", s.path)
			}
		case err := <-done:
			return err
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer (%w): it is left, and so are the files behind it; "+
				"run `meshd cleanup` again once its file system answers", at, ctx.Err())
		}
	}
}

// bpfFolderCommand is for the service, see packaging/meshd.service.
func bpfFolderCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "bpf-folder USER",
		Short:  "Make the folder in the BPF file system in which USER's meshd pins its programs",
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
