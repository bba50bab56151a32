package peers

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"example.org/meshd/internal/mesh"
)

// This file decides to which of its addresses packets to a peer go:
//
//	at first --- the first address in the file ----------------------------> it
//	silent ----- another one has answered since, and was well before or ---> the first of those
//	             for settleAfter
//	well ------- one before it has answered everything for returnAfter ----> that one
//
// A meshd that starts answers at all addresses at nearly the same moment: which answer is the first says
// nothing, so others have to be well for settleAfter then.
//
// An address that nothing answers at is kept where no other one answers either: that says most about
// what is wrong.

// returnAfter is how long an address, or a peer, has to be well until packets go back to it: one that
// comes and goes must not move them each time.
const returnAfter = 30 * time.Second

// settleAfter is how long an address that was silent, too, has to be well until packets go there.
const settleAfter = time.Second

// An Address is what is known of one address of a peer that has several.
type Address struct {
	At       netip.AddrPort
	State    State
	Silent   bool      // it was found silent within seconds, and has not answered since
	Good     time.Time // since when it answers everything; zero: it does not
	Answered time.Time // when it answered last; zero: never
	RTT      time.Duration
	Loss     float64 // of the last probes, 0 to 1
	Met      bool    // it was up since this meshd started
}

// fails tells whether packets do not reach the address, as far as is known.
func (a Address) fails() bool {
	return a.Silent || a.State != Up && a.State != Unknown && a.State != ""
}

// replaces tells whether the address takes the place of one that has failed.
func (a Address) replaces(failed Address, now time.Time) bool {
	wellBefore := !a.Good.IsZero() && !failed.Answered.IsZero() && a.Good.Before(failed.Answered)
	return !a.fails() && a.Answered.After(failed.Answered) &&
		(wellBefore || !a.Good.IsZero() && now.Sub(a.Good) >= settleAfter)
}

// choose decides again to which address packets go.
func (f *Facts) choose(now time.Time) {
	if len(f.Addresses) < 2 {
		f.via = netip.AddrPort{}
		return
	}
	at := max(0, f.inUse())
	switch used := f.Addresses[at]; {
	case used.fails():
		other := slices.IndexFunc(f.Addresses, func(a Address) bool { return a.replaces(used, now) })
		if other >= 0 {
			at = other
		}
	default:
		better := slices.IndexFunc(f.Addresses[:at], func(a Address) bool {
			return a.State == Up && !a.Silent && !a.Good.IsZero() && now.Sub(a.Good) >= returnAfter
		})
		if better >= 0 {
			at = better
		}
	}
	f.via = f.Addresses[at].At
}

// inUse returns the index of the address to which packets go; -1 if it is not there.
func (f *Facts) inUse() int {
	return slices.IndexFunc(f.Addresses, func(a Address) bool { return a.At == f.via })
}

// Via returns the address to which packets go; the zero value for a peer that has one.
func (f Facts) Via() netip.AddrPort { return f.via }

// directed returns the address as a directive names it: the first is no news.
func (f Facts) directed() netip.AddrPort {
	if len(f.Addresses) > 0 && f.Addresses[0].At == f.via {
		return netip.AddrPort{}
	}
	return f.via
}

// meet notes which addresses were up before, from the facts before.
func (f *Facts) meet(before []Address) {
	f.Addresses = slices.Clone(f.Addresses) // others read the list of before
	for i := range f.Addresses {
		a := &f.Addresses[i]
		a.Met = a.Met || a.State == Up || slices.ContainsFunc(before, func(b Address) bool {
			return b.At == a.At && b.Met
		})
	}
}

// Unsettled returns the peers whose packets may go to another address soon, though nothing more is learned:
// one is preferred to that in use, or that one fails. Facts.Conclude is to be called every second for them.
func (r *Registry) Unsettled() []string {
	return r.which(func(f *Facts) bool {
		at := f.inUse()
		return at > 0 || at == 0 && f.Addresses[at].fails()
	})
}

// spares tells of addresses to which packets could not go: nothing is left if the one in use fails. An
// address that never answered may not be for this host.
func (f Facts) spares(peer string) (all []mesh.Condition) {
	for _, severity := range []mesh.Severity{mesh.Degraded, mesh.Info} {
		var dead []string
		for _, a := range f.Addresses {
			if a.At != f.via && a.fails() && a.Met == (severity == mesh.Degraded) {
				dead = append(dead, a.At.String())
			}
		}
		if len(dead) > 0 {
			all = append(all, mesh.Condition{Kind: mesh.AddressSilent, Severity: severity, Peer: peer,
				Subject: strings.Join(dead, ", "), Cause: "packets go to " + f.via.String(),
				Remedy: "look at the uplink that leads there, and at the firewalls of both hosts"})
		}
	}
	return all
}
