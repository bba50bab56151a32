package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The functions here say why a text is not an address or a prefix, and what to write. net/netip
// decides whether it is one; they only find words for what people write instead.

// Patterns of what people write for an address or a prefix.
var (
	fourNumbers = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*$`)
	hostName    = regexp.MustCompile(`^[\pL0-9]([\pL0-9_-]*[\pL0-9])?(\.[\pL0-9_-]+)*\.?$`)
	anyScheme   = regexp.MustCompile(`^[a-z0-9+.-]+://`)
	bracketed   = regexp.MustCompile(`^\[([^\]]*)\]$`)
	addressSpan = regexp.MustCompile(`^([0-9.]+) *(-|\.\.|to) *([0-9.]+)$`)
)

// special are the prefixes that cannot be part of a pod network: "this network", loopback,
// multicast, class E and link-local (RFC 6890).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("224.0.0.0/3"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// specialNames describes special in messages.
const specialNames = "loopback, multicast, link-local or reserved addresses"

// unicast reports whether hosts can have every address of p.
func unicast(p netip.Prefix) bool {
	return !slices.ContainsFunc(special, p.Overlaps)
}

// wrongNumber says what is wrong with numbers between dots.
func wrongNumber(s string) string {
	parts := strings.Split(s, ".")
	if len(parts) != 4 {
		return fmt.Sprintf("it has %d numbers, and 4 are needed", len(parts))
	}
	for _, part := range parts {
		switch n, err := strconv.Atoi(part); {
		case err != nil || n > 255:
			return part + " is above 255"
		case len(part) > 1 && part[0] == '0':
			return fmt.Sprintf("%s has a leading zero: write %d", part, n)
		}
	}
	return "write four numbers from 0 to 255"
}

// notPrefix says why s is not a prefix in CIDR form.
func notPrefix(s string) string {
	if says := notOne(s); says != "" {
		if several(s) {
			says += ": each needs quotes of its own: [\"10.244.1.0/24\", \"10.244.2.0/24\"]"
		}
		return says
	}
	if m := addressSpan.FindStringSubmatch(s); m != nil {
		return fmt.Sprintf("%q is a range, and meshd takes prefixes: write it as \"10.244.1.0/24\"", s)
	}
	address, length, ok := strings.Cut(s, "/")
	if !ok && validIP(address) {
		return fmt.Sprintf("%q has no prefix length: write %q", s, usualPrefix(netip.MustParseAddr(address)))
	}
	if strings.Contains(address, "*") {
		return fmt.Sprintf("%q has a *, and meshd takes prefixes: write it as \"10.244.1.0/24\"", s)
	}
	if !ok || !validIP(address) {
		return fmt.Sprintf("%q must be an IP prefix such as \"10.244.1.0/24\"%s", s, whyNot(address))
	}
	ip := netip.MustParseAddr(address)
	if mask, err := netip.ParseAddr(length); err == nil && mask.Is4() {
		bits, size := net.IPMask(mask.AsSlice()).Size()
		if size == 0 {
			return fmt.Sprintf("%q has a mask that is no prefix length: write it as \"10.244.1.0/24\"", s)
		}
		return fmt.Sprintf("%q has a mask: write the prefix length, \"%s/%d\"", s, ip, bits)
	}
	if n, err := strconv.Atoi(length); err == nil && n > ip.BitLen() {
		return fmt.Sprintf("%q: /%d is too long: an %s prefix has at most /%d", s, n, familyOf(ip), ip.BitLen())
	}
	return fmt.Sprintf("%q has no valid prefix length: %q must be a number from 0 to %d", s, length, ip.BitLen())
}

// whyNot adds what is wrong with the address of a prefix, if that is known.
func whyNot(address string) string {
	if fourNumbers.MatchString(address) {
		return ": " + wrongNumber(address)
	}
	return ""
}

// notOne says why a text is not one word; empty if it is one.
func notOne(s string) string {
	if t := strings.TrimSpace(s); t != s && t != "" {
		return fmt.Sprintf("%q has a blank at its beginning or its end: write %q", s, t)
	}
	if dots := strings.ReplaceAll(s, ",", "."); dots != s && !several(dots) && fourNumbers.MatchString(dots) {
		return fmt.Sprintf("%q has a comma between its numbers: write %q", s, dots)
	}
	if several(s) && !addressSpan.MatchString(s) {
		return fmt.Sprintf("%q is more than one value", s)
	}
	if scheme := anyScheme.FindString(s); scheme != "" {
		return fmt.Sprintf("%q is a URL: leave out %q", s, scheme)
	}
	return ""
}

// several reports whether a text has blanks or commas inside.
func several(s string) bool { return strings.ContainsAny(strings.TrimSpace(s), ",; \t\n") }

// validIP reports whether s is an IP address.
func validIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// usualPrefix returns the prefix of an address that has as many bits as most pod subnets.
func usualPrefix(ip netip.Addr) string {
	bits := 24
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return "10.244.1.0/24"
	}
	return p.String()
}

// familyOf names the family of an address.
func familyOf(ip netip.Addr) string {
	if ip.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
