package words

import (
	"strings"
	"time"

	"example.org/meshd/internal/control"
)

// State is the state of a peer. One that is not up, in a maintenance that was announced, is no alarm, so that
// is said beside the state.
func State(p control.Peer) string {
	if p.Drain != nil && !p.IsUp() {
		return p.State + announced
	}
	return p.State
}

// announced follows a state in a maintenance.
const announced = " (maintenance)"

// Endpoint is where packets to a peer go. Where that is not the address which is preferred, both are there.
func Endpoint(p control.Peer) string {
	if Diverted(p) {
		return p.Active() + " (instead of " + p.Address + ")"
	}
	return p.Address
}

// Listens lists where a node listens, in order of preference. A daemon that is older tells of one address.
func Listens(n control.Network) string {
	if len(n.Addresses) == 0 {
		return HostPort(n)
	}
	return strings.Join(n.Addresses, " ")
}

// Diverted tells whether packets to a peer go to another address than the one that is preferred.
func Diverted(p control.Peer) bool { return p.Active() != p.Address }

// Maintenance tells since when a node is in maintenance, until when, by whom and why, as far as that is
// known: "in maintenance since 14:01 UTC (6m 23s) until 15:00 UTC by root: new disk".
func Maintenance(d control.Drain, now time.Time) string {
	text := "in maintenance"
	if d.Since != nil {
		text += " since " + moment(*d.Since, now) + " (" + Span(now.Sub(*d.Since)) + ")"
	}
	if d.Until != nil {
		text += " until " + moment(*d.Until, now)
	}
	if d.By != "" {
		text += " by " + d.By
	}
	if d.Reason != "" {
		text += ": " + OneLine(d.Reason)
	}
	return text
}

// Waiting names the peers that may still send packets for shared prefixes to a node in maintenance; empty if
// there are none.
func Waiting(d control.Drain) string {
	const named = 8
	if len(d.Waiting) == 0 {
		return ""
	}
	text := "traffic may still come from " + strings.Join(d.Waiting[:min(len(d.Waiting), named)], " ")
	if more := len(d.Waiting) - named; more > 0 {
		text += " and " + Count(more, "other")
	}
	return text
}

// moment writes a time of today as a time of day, and any other with its date.
func moment(t, now time.Time) string {
	t, now = t.UTC(), now.UTC()
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format("15:04 UTC")
	}
	return t.Format("2006-01-02 15:04 UTC")
}

// Duty says what a peer does for a prefix behind it.
func Duty(active bool) string {
	if active {
		return "active"
	}
	return "standby"
}
