package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
)

// pinged is what `meshd ping --json` prints.
type pinged struct {
	Schema   int            `json:"schema"`
	Peer     string         `json:"peer"`
	Sent     int            `json:"sent"`
	Received int            `json:"received"`
	Loss     float64        `json:"loss"` // 0 to 1
	MinMS    *float64       `json:"rtt_min_ms"`
	MedianMS *float64       `json:"rtt_ms"`
	MaxMS    *float64       `json:"rtt_max_ms"`
	Replies  []control.Ping `json:"replies"`
}

func pingCommand(g *globals) *cobra.Command {
	var count, size int
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "ping NODE",
		Short: "Ask a node through the tunnel how long it takes to answer",
		Long: `Ask a node through the tunnel, from this node's TUN address to that of the other: its meshd answers,
or the kernel of a host with flannel. Exit code 0: it answered, 1: not once.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: peerNames(g, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 1 || interval < 10*time.Millisecond {
				return fmt.Errorf("%w: at least -c 1 and -i 10ms", errUsage)
			}
			client := g.client()
			defer client.Close()
			result := pinged{Schema: control.Schema, Peer: args[0], Replies: []control.Ping{}}
			err := ping(cmd.Context(), client, &result, count, interval, size, func(p control.Ping) {
				if !g.json {
					fmt.Fprintln(cmd.OutOrStdout(), pingLine(p, result.Sent))
				}
			})
			if err != nil {
				return err
			}
			result.sumUp()
			if g.json {
				err = printJSON(cmd.OutOrStdout(), result)
			} else {
				err = result.print(cmd.OutOrStdout())
			}
			if err == nil && result.Received == 0 {
				return errSilent
			}
			return err
		},
	}
	cmd.Flags().StringVar(&g.config, "config", g.config, "configuration `file`") // takes the place of the global flag, with its -c
	count = 5
	cmd.Flags().VarP(&countFlag{&count, g}, "count", "c", "how often to ask")
	cmd.Flags().DurationVarP(&interval, "interval", "i", time.Second, "`time` from one question to the next")
	cmd.Flags().IntVarP(&size, "size", "s", 0, "size of the ICMP payload in `bytes`, at least 80")
	return cmd
}

// countFlag is -c, which everywhere else, and also in front of this command, is the
// configuration file.
type countFlag struct {
	count *int
	g     *globals
}

func (f *countFlag) String() string { return strconv.Itoa(*f.count) }
func (f *countFlag) Type() string   { return "number" }

func (f *countFlag) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil {
		f.g.config = text
		return nil
	}
	*f.count = n
	return nil
}

// ping asks until it has asked count times, or ctx ends.
func ping(ctx context.Context, client *control.Client, result *pinged, count int, interval time.Duration, size int, each func(control.Ping)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		p, err := client.Ping(ctx, control.PingRequest{Peer: result.Peer, Size: size})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		result.Sent++
		result.Replies = append(result.Replies, p)
		each(p)
		if result.Sent == count {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func pingLine(p control.Ping, seq int) string {
	switch {
	case p.Error != "":
		return fmt.Sprintf("%d bytes to %s: seq=%d not sent: %s", p.Size, p.Peer, seq, p.Error)
	case p.RTTMS == nil:
		return fmt.Sprintf("%d bytes to %s: seq=%d no answer", p.Size, p.Peer, seq)
	}
	return fmt.Sprintf("%d bytes from %s: seq=%d time=%.3f ms", p.Size, p.Peer, seq, *p.RTTMS)
}

func (r *pinged) sumUp() {
	var times []float64
	for _, p := range r.Replies {
		if p.RTTMS != nil {
			times = append(times, *p.RTTMS)
		}
	}
	r.Received = len(times)
	if r.Sent > 0 {
		r.Loss = 1 - float64(r.Received)/float64(r.Sent)
	}
	if len(times) > 0 {
		slices.Sort(times)
		r.MinMS, r.MedianMS, r.MaxMS = &times[0], &times[len(times)/2], &times[len(times)-1]
	}
}

func (r *pinged) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%d sent, %d received, %.0f%% loss\n", r.Sent, r.Received, 100*r.Loss)
	if r.MedianMS != nil {
		_, timesErr := fmt.Fprintf(w, "rtt min/median/max %.3f/%.3f/%.3f ms\n", *r.MinMS, *r.MedianMS, *r.MaxMS)
		err = errors.Join(err, timesErr)
	}
	return err
}
