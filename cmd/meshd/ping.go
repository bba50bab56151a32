package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/typed"
)

// pinged is what `meshd ping --json` prints. Its fields are promised like those of the API.
type pinged struct {
	Schema   int            `json:"schema"`
	Peer     string         `json:"peer"`
	Sent     int            `json:"sent"`
	Received int            `json:"received"`
	Loss     float64        `json:"loss"`       // 0 to 1
	MinMS    *float64       `json:"rtt_min_ms"` // null if no answer came, as the two below
	MedianMS *float64       `json:"rtt_ms"`
	MaxMS    *float64       `json:"rtt_max_ms"`
	Replies  []control.Ping `json:"replies"` // in the order of the questions
}

// pingCommand returns `meshd ping`. It takes the way of the probes, so it tests the tunnel and the
// other meshd, not a pod.
func pingCommand(g *globals) *cobra.Command {
	var count, size int
	interval := typed.Span(time.Second)
	cmd := &cobra.Command{
		Use:   "ping NODE|ADDRESS",
		Short: "Measure the round trip to a node through the tunnel",
		Long: `Send ICMP echo requests to a node through the tunnel, from this node's TUN address
to the other's. Its meshd answers, or the kernel of a host with flannel. An address is one
of the node itself, or of something behind it: the node is asked, and not the pod.
Exit code 0: at least one answer came, 1: none did.

"-c N" is the same as "-n N"; "-c FILE" is --config, as everywhere.`,
		Example:           "  meshd ping -n 3 -i 0.2 edge-2\n  meshd ping 10.244.1.7",
		Args:              arguments(1, 1),
		ValidArgsFunction: peerNames(g, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			every := time.Duration(interval)
			if count < 1 || every < 10*time.Millisecond { // anybody in the group may ask: no floods
				return fmt.Errorf("%w: at least -n 1 and -i 10ms", errUsage)
			}
			client := g.client()
			defer client.Close()
			name, err := whom(cmd.Context(), client, args[0], cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			result := pinged{Schema: control.Schema, Peer: name, Replies: []control.Ping{}}
			err = ping(cmd.Context(), client, &result, count, every, size, func(p control.Ping) {
				if !g.json {
					fmt.Fprintln(cmd.OutOrStdout(), pingLine(p, result.Sent))
				}
			})
			if err != nil {
				return meant(cmd.Context(), client, name, err)
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
	flags := cmd.Flags()
	flags.IntVarP(&count, "count", "n", 5, "`number` of requests")
	flags.VarP(&interval, "interval", "i", "`time` between two requests, such as 0.2 or 200ms")
	flags.IntVarP(&size, "size", "s", 0, "size of the ICMP payload in `bytes`, at least 80")
	// This --config takes the place of the global one, so that -c is free for both meanings.
	flags.StringVar(&g.config, "config", g.config, "configuration `file`")
	flags.VarP(&countOrFile{count: &count, file: &g.config}, "count-or-config", "c", "")
	flags.Lookup("count-or-config").Hidden = true // its letter is explained above
	return cmd
}

// countOrFile is the value of ping's -c. It is a count, as in ping(8), if it begins like a number,
// and else the global flag's file. A file that begins with a digit is ./5 or --config 5; so a count
// with a typing mistake is never taken for a file.
type countOrFile struct {
	count *int
	file  *string
}

// String implements pflag.Value: there is no default.
func (f *countOrFile) String() string { return "" }

// Type implements pflag.Value.
func (f *countOrFile) Type() string { return "N|FILE" }

// Set implements pflag.Value.
func (f *countOrFile) Set(text string) error {
	if text == "" || !strings.Contains("+-0123456789", text[:1]) {
		*f.file = text
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("%q is not a number", text)
	}
	*f.count = n
	return nil
}

// ping sends requests until there are count of them or ctx ends. Ctrl-C is no error: what was
// measured until then is the result.
func ping(
	ctx context.Context, client *control.Client, result *pinged, count int, interval time.Duration, size int,
	each func(control.Ping),
) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		p, err := client.Ping(ctx, control.PingRequest{Peer: result.Peer, Size: size})
		if ctx.Err() != nil { // before err, which is only a consequence then
			return nil
		}
		if err != nil {
			return err
		}
		// Counted after the call: a request that the daemon refused was not sent.
		result.Sent++
		result.Replies = append(result.Replies, p)
		each(p)
		// Checked before the pause, so that the last reply is not followed by a wait.
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

// pingLine writes one reply; seq is the number of its request, from 1.
func pingLine(p control.Ping, seq int) string {
	switch {
	case p.Error != "":
		return fmt.Sprintf("%d bytes to %s: seq=%d not sent: %s", p.Size, p.Peer, seq, p.Error)
	case p.RTTMS == nil:
		return fmt.Sprintf("%d bytes to %s: seq=%d no answer", p.Size, p.Peer, seq)
	}
	return fmt.Sprintf("%d bytes from %s: seq=%d time=%.3f ms", p.Size, p.Peer, seq, *p.RTTMS)
}

// sumUp fills in what follows from the replies.
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
		// A median, since one slow answer would spoil a mean.
		slices.Sort(times)
		r.MinMS, r.MedianMS, r.MaxMS = &times[0], &times[len(times)/2], &times[len(times)-1]
	}
}

// print writes the sum for people.
func (r *pinged) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%d sent, %d received, %.0f%% loss\n", r.Sent, r.Received, 100*r.Loss)
	if err == nil && r.MedianMS != nil {
		_, err = fmt.Fprintf(w, "rtt min/median/max %.3f/%.3f/%.3f ms\n", *r.MinMS, *r.MedianMS, *r.MaxMS)
	}
	return err
}
