package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
	"example.org/meshd/internal/typed"
)

// levels are those of events, the least urgent first.
var levels = []string{"debug", "info", "warn", "error"}

// A selection is which events are shown.
type selection struct {
	oldest time.Time
	level  string // the lowest one; empty: all
	peer   string // empty: events of all peers and of the node
	most   int    // how many lines, the last ones; negative: all
	each   bool   // events that repeat are not put together
}

// eventsCommand returns `meshd events`. The daemon keeps its events in memory, so they are there also
// on hosts that keep no log.
func eventsCommand(g *globals) *cobra.Command {
	var s selection
	var follow bool
	var since string
	cmd := &cobra.Command{
		Use:   "events [NAME|ADDRESS]",
		Short: "Show the last events of the running meshd",
		Long: `Show the last 2000 events of the running meshd, such as peers that went up or down, reloads,
rejected files and repairs; of one peer alone if it is named. Events that repeat are one line with their
number. --json prints a line of JSON for each event, with all that is known of it.`,
		Example: "  meshd events -n 20 --level warn\n  meshd events --since 14:30 edge-2\n" +
			"  meshd events -f --since 1d",
		Args:              arguments(0, 1),
		ValidArgsFunction: peerNames(g, ""),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if s.level != "" && !slices.Contains(levels, s.level) {
				return fmt.Errorf("%w: --level is for %s, and not %q", errUsage, strings.Join(levels, ", "), s.level)
			}
			if since != "" { // by this host's clock, which is the daemon's, too
				if s.oldest, err = typed.Moment(since, time.Now()); err != nil {
					return fmt.Errorf("%w: --since %w", errUsage, err)
				}
			}
			if s.most < 0 && cmd.Flags().Changed("lines") {
				return fmt.Errorf("%w: -n must be 0 or more", errUsage)
			}
			s.each = g.json // programs want every event
			client := g.client()
			defer client.Close()
			if len(args) == 1 {
				if s.peer, err = known(cmd, client, args[0]); err != nil {
					return err
				}
			}
			err = showEvents(cmd.Context(), client, s, follow, printer(g, cmd.OutOrStdout()))
			if cmd.Context().Err() != nil { // Ctrl-C is how following ends
				return nil
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "keep printing new events")
	flags.StringVar(&since, "since", "", "only events since this `time`: 1h or 1d ago, 14:30, 2026-11-26T21:00Z")
	flags.IntVarP(&s.most, "lines", "n", -1, "only the last `number` of lines")
	flags.Lookup("lines").DefValue = "0" // help does not print a default of 0, and -1 would puzzle
	flags.StringVar(&s.level, "level", "", "only events of this `level` or worse: info, warn or error")
	choices(cmd, "level", levels[1:]...) // the daemon keeps none of the lowest level
	choices(cmd, "since", "10m", "1h", "1d")
	return cmd
}

// known returns the name of a peer that there is, or was: of one that is gone the daemon may have events.
// Only a name that looks like that of a peer is refused.
func known(cmd *cobra.Command, client *control.Client, word string) (string, error) {
	name, err := whom(cmd.Context(), client, word, cmd.ErrOrStderr())
	if err != nil {
		return "", err
	}
	s, err := ask(cmd.Context(), client.Status)
	if err != nil || slices.Contains(names(s.Peers), name) {
		return name, err
	}
	hint := "events of one that is gone are shown"
	if meant := typed.Meant(name, names(s.Peers)); meant != "" {
		hint = fmt.Sprintf("did you mean %q?", meant)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "meshd: no peer is named %q: %s\n", name, hint)
	return name, nil
}

// shows tells whether an event belongs to a selection.
func (s selection) shows(e control.Event) bool {
	about := s.peer == "" || e.Peer == s.peer || slices.Contains(strings.Fields(e.Fields["peers"]), s.peer)
	urgent := s.level == "" || slices.Index(levels, strings.ToLower(e.Level)) >= slices.Index(levels, s.level)
	return about && urgent && !e.At.Before(s.oldest)
}

// An entry is an event, and how often it came again without another one in between.
type entry struct {
	control.Event
	times int
	last  time.Time
}

// again tells whether an event repeats what an entry says, whatever its figures are.
func (e *entry) again(next control.Event) bool {
	return e.Kind == next.Kind && e.Peer == next.Peer && e.Level == next.Level && e.Message == next.Message
}

// showEvents prints the events of a selection, and then those that follow, if asked for.
func showEvents(ctx context.Context, client *control.Client, s selection, follow bool,
	print func(entry) error) error {
	var entries []entry
	seen := uint64(0)
	err := client.Events(ctx, 0, false, func(e control.Event) error {
		seen = e.Seq
		if !s.shows(e) {
			return nil
		}
		if n := len(entries); n > 0 && !s.each && entries[n-1].again(e) {
			entries[n-1].times++
			entries[n-1].last = e.At
			return nil
		}
		entries = append(entries, entry{e, 1, e.At})
		return nil
	})
	if err != nil {
		return err
	}
	if s.most >= 0 {
		entries = entries[max(0, len(entries)-s.most):]
	}
	for _, e := range entries {
		if err := print(e); err != nil {
			return err
		}
	}
	if !follow {
		return nil
	}
	return client.Events(ctx, seen, true, func(e control.Event) error {
		if !s.shows(e) {
			return nil
		}
		return print(entry{e, 1, e.At})
	})
}

// printer returns what prints an entry.
func printer(g *globals, out io.Writer) func(entry) error {
	if g.json { // a line each, not indented: following has no end to parse
		return func(e entry) error { return json.NewEncoder(out).Encode(e.Event) }
	}
	return func(e entry) error { return printEvent(out, e) }
}

// printEvent writes an entry as a line for people: when, how urgent, who, and what. Its details stand in
// brackets; of long ones the beginning is there, and all of it with --json.
func printEvent(w io.Writer, e entry) error {
	subject, rest := words.Told(e.Event)
	line := fmt.Sprintf("%s %-5s ", e.At.Local().Format("2006-01-02 15:04:05"), strings.ToUpper(e.Level))
	if subject != "" {
		line += subject + " "
	}
	line += rest
	if e.times > 1 {
		line += fmt.Sprintf(" (%d times, last at %s)", e.times, e.last.Local().Format("15:04:05"))
	}
	_, err := fmt.Fprintln(w, line)
	return err
}
