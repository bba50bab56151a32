// Package words turns values of the API into words for people. It is the one place where the
// sentences of `meshd status` and of the dashboard are written, so that they can be improved
// without fear: programs read the API's fields, never these words.
//
// All functions are pure: they ask no clock and no kernel. Text of other hosts passes through
// unchanged, since the writer at the edge makes it harmless (package text).
package words

import (
	"fmt"
	"net/netip"
	"time"

	"example.org/meshd/internal/control"
)

// OrNone returns s, or "none" for an empty s: a blank place in a table looks like a fault.
func OrNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// HostPort writes where a node listens, such as "172.18.0.3:8285" or "[2001:db8::1]:8285".
func HostPort(n control.Network) string {
	address, err := netip.ParseAddr(n.Address)
	if err != nil { // not known yet, or of a daemon that knows more kinds of addresses
		return n.Address
	}
	return netip.AddrPortFrom(address, uint16(n.Port)).String()
}

// Span writes a duration with its two largest units: "3d 04h", "12m 05s". One below zero, of
// clocks that disagree, is "0s".
func Span(d time.Duration) string {
	d = max(d.Round(time.Second), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm %02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh %02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd %02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// Size writes a number of bytes with an SI unit: "1.2 MB".
func Size(n uint64) string {
	value, units := float64(n), []string{"B", "kB", "MB", "GB", "TB", "PB"}
	for value >= 1000 && len(units) > 1 {
		value, units = value/1000, units[1:]
	}
	if units[0] == "B" { // which have no fractions
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[0])
}

// Number writes a figure times scale, or "-" where it is not known: a zero would be a lie.
func Number(n *float64, format string, scale float64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprintf(format, *n*scale)
}
