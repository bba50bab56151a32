package config

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The functions here turn one raw leaf into a value. A nil leaf is a key that
// is not in the file and gives the default; a bad one is noted and gives the
// default too, so that the checks that follow have something to work with.

func (r *report) text(path string, leaf any, def string) string {
	if leaf == nil {
		return def
	}
	s, ok := leaf.(string)
	if !ok {
		r.add(path, "must be a string in quotes, not %s", show(leaf))
		return def
	}
	return s
}

func (r *report) flag(path string, leaf any, def bool) bool {
	if leaf == nil {
		return def
	}
	b, ok := leaf.(bool)
	if !ok {
		r.add(path, "must be true or false, not %s", show(leaf))
		return def
	}
	return b
}

// flagOrAll reads true, false or "all", which is true and more.
func (r *report) flagOrAll(path string, leaf any, def bool) (on, all bool) {
	if leaf == Everything {
		return true, true
	}
	if _, ok := leaf.(bool); leaf != nil && !ok {
		r.add(path, "must be true, false or %q, not %s", Everything, show(leaf))
		return def, false
	}
	return r.flag(path, leaf, def), false
}

func (r *report) number(path string, leaf any, low, high, def int) int {
	if leaf == nil {
		return def
	}
	n, ok := leaf.(int64)
	switch {
	case !ok:
		r.add(path, "must be a whole number, not %s", show(leaf))
	case n < int64(low) || n > int64(high):
		r.add(path, "%d is out of range: %d to %d", n, low, high)
	default:
		return int(n)
	}
	return def
}

func (r *report) oneOf(path string, leaf any, values ...string) string {
	s := r.text(path, leaf, values[0])
	if !slices.Contains(values, s) {
		r.add(path, "%q is not one of %q", s, values)
	}
	return s
}

func (r *report) duration(path string, leaf any, low, high, def time.Duration) time.Duration {
	s := r.text(path, leaf, def.String())
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		r.add(path, "%q is not a duration such as \"1s\" or \"500ms\"", s)
	case d != 0 && (d < low || d > high):
		r.add(path, "%s is out of range: %s to %s, or 0s to turn it off", d, low, high)
	default:
		return d
	}
	return def
}

func (r *report) listen(path string, leaf any) string {
	s := r.text(path, leaf, "")
	if s == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || !validPort(port) || strings.ContainsFunc(host, func(c rune) bool { return c <= ' ' || c > '~' }) {
		r.add(path, "%q is not host:port such as \"127.0.0.1:9285\"", s)
	}
	return s
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func (r *report) file(path string, leaf any, def string) string {
	s := r.text(path, leaf, def)
	if s != "" && (!filepath.IsAbs(s) || filepath.Clean(s) != s) {
		r.add(path, "%q is not an absolute path without detours", s)
	}
	return s
}

// ownFiles checks that what is to be written is not in the way of itself, or of the file.
func (r *report) ownFiles(c Container) {
	own, err := filepath.Abs(r.path)
	if err != nil {
		own = r.path
	}
	if c.SubnetEnv != "" && c.SubnetEnv == c.CNIConf {
		r.add("container.cni_conf", "%q is container.subnet_env, too: they are two files", c.CNIConf)
	}
	for key, path := range map[string]string{"container.subnet_env": c.SubnetEnv, "container.cni_conf": c.CNIConf} {
		if path != "" && path == own {
			r.add(key, "%q is this very file, which would be replaced", path)
		}
	}
}

// interfaceName applies the kernel's rules (dev_valid_name in net/core/dev.c),
// leaves out '%', which the TUN driver would take as a pattern, and what is not
// ASCII, some bytes of which the kernel takes for blanks.
func (r *report) interfaceName(path string, leaf any, def string) string {
	s := r.text(path, leaf, def)
	switch {
	case s == "" || s == "." || s == "..", strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || c == '/' || c == ':' || c == '%' }):
		r.add(path, "%q is not an interface name", s)
	case len(s) > 15:
		r.add(path, "%q is longer than the 15 bytes the kernel takes", s)
	case s == "lo" || s == "all" || s == "default":
		r.add(path, "%q is taken by the kernel", s)
	}
	return s
}

// list applies one to each element of a list. A lone value counts as a list of
// one if single is true.
func (r *report) list(path string, leaf any, single bool, one func(path string, leaf any)) {
	switch v := leaf.(type) {
	case nil:
	case []any:
		for i, element := range v {
			one(path+"["+strconv.Itoa(i)+"]", element)
		}
	default:
		if single {
			one(path, leaf)
			return
		}
		r.add(path, "must be a list such as [\"10.244.1.0/24\"], not %s", show(leaf))
	}
}

// prefixes reads a list of prefixes. Those with faults are left out; at tells
// the path of each one that is returned.
func (r *report) prefixes(path string, leaf any, single bool) (ps []netip.Prefix, at []string) {
	r.list(path, leaf, single, func(path string, leaf any) {
		if p, ok := r.prefix(path, leaf); ok {
			ps, at = append(ps, p), append(at, path)
		}
	})
	return ps, at
}

func (r *report) prefix(path string, leaf any) (netip.Prefix, bool) {
	s, ok := leaf.(string)
	if !ok {
		r.add(path, "must be a prefix in quotes such as \"10.244.1.0/24\", not %s", show(leaf))
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil && !strings.Contains(s, "/"):
		r.add(path, "%q has no prefix length: write it as \"10.244.1.0/24\"", s)
	case err != nil:
		r.add(path, "%q is not an IP prefix such as \"10.244.1.0/24\"", s)
	case p.Addr().Is4In6():
		r.add(path, "%s is an IPv4-mapped IPv6 prefix: write it as IPv4", s)
	case p != p.Masked():
		r.add(path, "%s has host bits set: the network is %s", s, p.Masked())
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

// special is what can be no part of a pod network: this network, loopback,
// multicast, class E and link-local (RFC 6890).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("224.0.0.0/3"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// unicast tells whether hosts can have any address of p.
func unicast(p netip.Prefix) bool {
	return !slices.ContainsFunc(special, p.Overlaps)
}

// endpoint reads an underlay address: IP, IP:port or [IP6]:port.
func (r *report) endpoint(path string, leaf any, port uint16) (netip.AddrPort, bool) {
	s, ok := leaf.(string)
	if !ok {
		r.add(path, "must be an address in quotes such as \"172.18.0.3\", not %s", show(leaf))
		return netip.AddrPort{}, false
	}
	addr, err := netip.ParseAddr(s)
	endpoint := netip.AddrPortFrom(addr, port)
	if err != nil {
		endpoint, err = netip.ParseAddrPort(s)
	}
	ip := endpoint.Addr()
	switch {
	case err != nil:
		r.add(path, "%q is not an IP address, IP:port or [IPv6]:port", s)
	case endpoint.Port() == 0:
		r.add(path, "%q: port 0 cannot be reached", s)
	case ip.Zone() != "":
		r.add(path, "%q: a zone means something else on every host: use a global address", s)
	case ip.Is4In6():
		r.add(path, "%q is an IPv4-mapped address: write %s", s, ip.Unmap())
	case ip.IsLoopback():
		r.add(path, "%s is a loopback address: every host has it, and none is reached by it", ip)
	case ip.IsLinkLocalUnicast() && ip.Is6():
		r.add(path, "%s is a link-local address, which means nothing without an interface: use a global one", ip)
	case !unicast(netip.PrefixFrom(ip, ip.BitLen())) && !ip.IsLinkLocalUnicast():
		r.add(path, "%s is not the address of a host", ip)
	default:
		return endpoint, true
	}
	return netip.AddrPort{}, false
}

// show describes a leaf of the wrong type in a message.
func show(leaf any) string {
	switch v := leaf.(type) {
	case string:
		return fmt.Sprintf("%q", v)
	case bool, int64:
		return fmt.Sprint(v)
	case float64:
		if v == math.Trunc(v) {
			return fmt.Sprintf("%.1f", v)
		}
		return fmt.Sprint(v)
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	case []map[string]any:
		return "a list of tables"
	default:
		return fmt.Sprintf("%v", v)
	}
}
