package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/typed"
)

// waitPause is the time between two requests. Waiting costs next to nothing so, and ends soon after
// what it waits for.
const waitPause = 100 * time.Millisecond

// waitCommand returns `meshd wait`, for units and scripts that start what needs the mesh.
func waitCommand(g *globals) *cobra.Command {
	timeout := typed.Span(30 * time.Second)
	cmd := &cobra.Command{
		Use:   "wait ready|peer:NAME",
		Short: "Wait until meshd forwards packets, or a peer is up",
		Long: `Wait until meshd forwards packets as its file says ("ready"), or until packets pass to
a peer ("peer:NAME"): it is up, draining or silent. meshd need not run yet. A name that the file
does not have is said at once, and waited for: a reload may bring it. Exit code 6: timed out.`,
		Example:           "  meshd wait ready --timeout 1m && systemctl start pods\n  meshd wait peer:edge-2",
		Args:              arguments(1, 1),
		ValidArgsFunction: peerNames(g, "peer:", "ready"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := g.client()
			defer client.Close()
			question := client.Ready
			if name, ok := strings.CutPrefix(args[0], "peer:"); ok && name != "" {
				question = missing(cmd.ErrOrStderr(), client, name)
			} else if args[0] != "ready" {
				return fmt.Errorf("%w: expected `ready` or `peer:NAME`, got %q", errUsage, args[0])
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Duration(timeout))
			defer cancel()
			if err := waitFor(ctx, question); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if g.json {
				return printJSON(cmd.OutOrStdout(), control.Ready{OK: true})
			}
			return nil
		},
	}
	cmd.Flags().Var(&timeout, "timeout", "`time` to wait at most")
	return cmd
}

// missing asks whether packets reach a peer. That no node has its name is said once, at once: most likely
// it is a typing mistake.
func missing(stderr io.Writer, client *control.Client, name string) func(context.Context) error {
	said := false
	return func(ctx context.Context) error {
		peer, err := whom(ctx, client, name, io.Discard)
		if err == nil {
			err = peerUp(ctx, client, peer)
		}
		if errors.Is(err, control.ErrNoPeer) && !said {
			said = true
			fmt.Fprintf(stderr, "meshd: %v (waiting for a reload that brings it)\n", meant(ctx, client, name, err))
		}
		return err
	}
}

// peerUp returns why packets do not reach a peer, nil if they do.
func peerUp(ctx context.Context, client *control.Client, name string) error {
	p, err := client.Peer(ctx, name)
	if err == nil && !p.Serves() {
		err = fmt.Errorf("the peer is %s", p.State)
	}
	return err
}

// notInTime tells that a deadline has passed, and what was missing last.
type notInTime struct{ last error }

// Error implements error.
func (e notInTime) Error() string { return fmt.Sprintf("timed out: %v", e.last) }

// Unwrap makes it a context.DeadlineExceeded, whatever was missing: that has an exit code.
func (e notInTime) Unwrap() error { return context.DeadlineExceeded }

// waitFor asks until there is no error. Errors that time does not cure end it at once.
func waitFor(ctx context.Context, question func(context.Context) error) error {
	last := errors.New("no answer")
	for {
		err := question(ctx)
		// Without permission or with another API version the answer will be the same in a minute.
		if err == nil || errors.Is(err, control.ErrPermission) || errors.Is(err, control.ErrMismatch) {
			return err
		}
		if ctx.Err() == nil { // else the error is that of the deadline, and says nothing new
			last = err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return notInTime{last}
			}
			return ctx.Err()
		// Asked again and not followed: the daemon may not run yet, or restart in between, and a stream
		// would end with it.
		case <-time.After(waitPause):
		}
	}
}
