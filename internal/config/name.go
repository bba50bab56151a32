package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// A node's address may be a DNS name. Names are the last guess: an address with a slip in it has to stay a
// fault, and must not become a name that DNS is asked for.

// MaxAddresses bounds the addresses of one node, in the file and behind its names together.
const MaxAddresses = 8

// Bounds of host names in bytes (RFC 1035, section 2.3.4; without the dot at the end).
const (
	maxHostName = 253
	maxLabel    = 63
)

// String returns the address as the file has it, with the port.
func (a Address) String() string {
	if a.Name != "" {
		return a.Name + ":" + strconv.Itoa(int(a.Port()))
	}
	return a.AddrPort.String()
}

// Host returns the name or the IP address, without the port.
func (a Address) Host() string {
	if a.Name != "" {
		return a.Name
	}
	return a.Addr().String()
}

// anyPort returns the address without its port, to compare it with others.
func (a Address) anyPort() Address {
	return Address{Name: a.Name, AddrPort: netip.AddrPortFrom(a.Addr(), 0)}
}

// named reads NAME or NAME:port; ok is false for everything else. The address that it returns has the
// port alone.
func named(s string, port uint16) (a Address, ok bool) {
	host := s
	if before, after, found := strings.Cut(s, ":"); found {
		n, err := strconv.ParseUint(after, 10, 16)
		if err != nil || n == 0 {
			return Address{}, false
		}
		host, port = before, uint16(n)
	}
	if notHostName(host) != "" {
		return Address{}, false
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	return Address{Name: name, AddrPort: netip.AddrPortFrom(netip.Addr{}, port)}, true
}

// notHostName says why s is not the name of another host, as RFC 1123, section 2.1, wants it; empty if
// it is one.
func notHostName(s string) string {
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	labels := strings.Split(name, ".")
	switch at := strings.IndexFunc(name, notOfHostName); {
	case at >= 0 && name[at] >= 0x80:
		return "it has letters beyond a to z: write the form that DNS knows, which begins with xn--"
	case at >= 0:
		return fmt.Sprintf("it has %q in it, and a host name has letters, digits, dots and hyphens", name[at:at+1])
	case len(name) > maxHostName:
		return fmt.Sprintf("it has %d characters, and a host name has %d at most", len(name), maxHostName)
	case isLocal(name):
		return "it means this host on each host"
	}
	for _, label := range labels {
		switch {
		case label == "":
			return "there is nothing before, or behind, one of its dots"
		case len(label) > maxLabel:
			return fmt.Sprintf("a part of it has %d characters, and DNS allows %d", len(label), maxLabel)
		case label[0] == '-' || label[len(label)-1] == '-':
			return fmt.Sprintf("%q begins or ends with a hyphen", label)
		}
	}
	if isNumber(labels[len(labels)-1]) {
		return "its last part is a number, as in an IP address, and never so in a host name"
	}
	if first, last := labels[:len(labels)-1], labels[len(labels)-1]; len(first) >= 3 && allNumbers(first) &&
		last[0] >= '0' && last[0] <= '9' {
		return fmt.Sprintf("it looks like an IPv4 address, and %q is not a number", last)
	}
	return ""
}

// isLocal reports whether a name in lower case means the host itself, whatever DNS says (RFC 6761,
// section 6.3).
func isLocal(name string) bool { return name == "localhost" || strings.HasSuffix(name, ".localhost") }

// notOfHostName reports whether no host name in lower case has c in it.
func notOfHostName(c rune) bool {
	return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-'
}

// isNumber reports whether a word consists of digits.
func isNumber(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c < '0' || c > '9' })
}

// allNumbers reports whether all words consist of digits.
func allNumbers(words []string) bool {
	for _, word := range words {
		if !isNumber(word) {
			return false
		}
	}
	return true
}

// notEndpoint says why s is not an IP address or a host name, with or without a port.
func notEndpoint(s string) string {
	if says := notOne(s); says != "" {
		if several(s) && !fourNumbers.MatchString(strings.ReplaceAll(s, ",", ".")) {
			says += ": each needs quotes of its own: [\"172.18.0.3\", \"10.0.0.3\"]"
		}
		return says
	}
	if address, _, ok := strings.Cut(s, "/"); ok && validIP(address) {
		return fmt.Sprintf("%q has a prefix length, and an address has none: write %q", s, address)
	}
	if m := bracketed.FindStringSubmatch(s); m != nil && validIP(m[1]) {
		return fmt.Sprintf("%q has brackets and no port: write %q", s, m[1])
	}
	host, port, err := net.SplitHostPort(s)
	switch {
	case err != nil && strings.Count(s, ":") > 1:
		return fmt.Sprintf("%q is not an IPv6 address; one with a port is written \"[2001:db8::1]:8285\"", s)
	case err != nil:
		return notHost(s)
	case !validIP(host) && notHostName(host) != "":
		return notHost(host)
	case s[0] == '[' && !validIP(host):
		return fmt.Sprintf("%q has brackets, which are for IPv6 addresses: write %q", s, host+":"+port)
	case !validPort(port):
		return fmt.Sprintf("%q has no valid port: %q must be a number from 1 to 65535", s, port)
	}
	return fmt.Sprintf("%q must be an IP address, IP:port, [IPv6]:port, or a host name", s)
}

// notHost says why s is neither an IP address nor a host name.
func notHost(s string) string {
	switch {
	case s == "":
		return "is empty: write an IP address such as \"172.18.0.3\", or a host name"
	case fourNumbers.MatchString(s):
		return fmt.Sprintf("%q is not an IPv4 address: %s", s, wrongNumber(s))
	case isLocal(strings.ToLower(strings.TrimSuffix(s, "."))):
		return fmt.Sprintf("%q means each host itself: write a name or an address that other hosts can reach", s)
	}
	return fmt.Sprintf("%q is neither an IP address nor a host name: %s", s, notHostName(s))
}
