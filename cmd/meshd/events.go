package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/meshd/internal/control"
)

// eventsCommand returns `meshd events`. The daemon keeps its events in memory, so they are there also
// on hosts that keep no log.
func eventsCommand(g *globals) *cobra.Command {
	var follow bool
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show the last events of the running meshd",
		Long: `Show the last 2000 events of the running meshd, such as peers that went up or down,
reloads, rejected files and repairs. --json prints a line of JSON for each.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := g.client()
			defer client.Close()
			oldest := time.Time{} // by this host's clock, which is the daemon's, too
			if since > 0 {
				oldest = time.Now().Add(-since)
			}
			err := client.Events(cmd.Context(), 0, follow, func(e control.Event) error {
				// Filtered here and not by the daemon: its `since` is a number of an event, and not a time.
				if e.At.Before(oldest) {
					return nil
				}
				if g.json { // a line each, not indented: following has no end to parse
					return json.NewEncoder(cmd.OutOrStdout()).Encode(e)
				}
				return printEvent(cmd.OutOrStdout(), e)
			})
			if cmd.Context().Err() != nil { // Ctrl-C is how following ends
				return nil
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "keep printing new events")
	cmd.Flags().DurationVar(&since, "since", 0, "only events of the last `time`, such as 1h (default all)")
	return cmd
}

// printEvent writes an event as a line for people, with its fields as the log has them. Values are
// quoted where they would look like another field.
func printEvent(w io.Writer, e control.Event) error {
	at := e.At.Local().Format("2006-01-02 15:04:05.000")
	words := []string{at, fmt.Sprintf("%-5s", strings.ToUpper(e.Level))}
	if e.Peer != "" {
		words = append(words, e.Peer+":")
	}
	words = append(words, e.Message)
	for _, key := range slices.Sorted(maps.Keys(e.Fields)) {
		value := e.Fields[key]
		if value == "" || strings.ContainsFunc(value, separates) {
			value = `"` + strings.ReplaceAll(value, `"`, `\"`) + `"`
		}
		words = append(words, key+"="+value)
	}
	_, err := fmt.Fprintln(w, strings.Join(words, " "))
	return err
}

// separates tells whether a rune ends a bare value of a field.
func separates(r rune) bool { return r <= ' ' || r == '"' || r == '=' }
