package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/control/words"
)

// printPeer writes what the table of all peers has no room for, as far as the daemon tells.
func printPeer(w io.Writer, p control.Peer, now time.Time) error {
	if p.Drain != nil {
		fmt.Fprintf(w, "\n%s is %s\n", p.Name, words.Maintenance(*p.Drain, now))
	}
	if p.WireGuard != nil {
		fmt.Fprintf(w, "\nencrypted  %s\n", words.Encrypted(p, now))
	}
	if err := printAddresses(w, p.Addresses, now); err != nil {
		return err
	}
	if err := printRoutes(w, p.RouteStates); err != nil {
		return err
	}
	return printPath(w, p)
}

// printAddresses writes a table of the addresses of a peer. A star marks the one that packets go to.
func printAddresses(w io.Writer, all []control.PeerAddress, now time.Time) error {
	if len(all) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\n  ADDRESS\tSTATE\tRTT ms\tLOSS\tNAME\tRESOLVED")
	for _, a := range all {
		mark, name, age := " ", "-", "-"
		if a.Active {
			mark = "*"
		}
		if a.Name != "" {
			name = a.Name
		}
		if a.Resolved != nil {
			age = words.Age(now.Sub(*a.Resolved)) + " ago"
		}
		fmt.Fprintf(t, "%s %s\t%s\t%s\t%s\t%s\t%s\n", mark, a.Address, a.State, words.Millis(a.RTTMS),
			words.Percent(a.Loss), name, age)
	}
	return t.Flush()
}

// printRoutes writes a table of the prefixes behind a peer that are outside the pod network.
func printRoutes(w io.Writer, all []control.RouteState) error {
	if len(all) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nROUTE\tMETRIC\tSTATE")
	for _, r := range all {
		fmt.Fprintf(t, "%s\t%d\t%s\n", r.Prefix, r.Metric, words.Duty(r.Active))
	}
	return t.Flush()
}

// printPath writes how large packets to a peer may be, and a table of the forms of probes to it, as far as
// the daemon tells.
func printPath(w io.Writer, p control.Peer) error {
	if p.MTU > 0 {
		fmt.Fprintf(w, "\nMTU %d by %s\n", p.MTU, p.MTUSource)
	}
	forms := p.Probes
	if len(forms) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nPROBES\tARRIVE\tLOSS\tLOST IN A ROW\tSENT")
	for _, f := range forms {
		name, arrive := f.Form, "yes"
		if f.DSCP != nil {
			name = fmt.Sprintf("%s %d", name, *f.DSCP)
		}
		switch {
		case !f.Measured:
			arrive = "not measured"
		case f.Fails:
			arrive = "NO"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\n", name, arrive, words.Percent(f.Loss), f.LostInRow, f.Sent)
	}
	return t.Flush()
}
