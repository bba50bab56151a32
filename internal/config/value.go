package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.org/meshd/internal/typed"
)

// The functions here turn one raw leaf, a value of the library, into a typed value. A nil
// leaf means that the key is not in the file, and gives the default. A bad leaf is
// reported and gives the default, too, so that later checks have something to work with.

// text reads a string of any content.
func (r *report) text(path string, leaf any, def string) string {
	if leaf == nil {
		return def
	}
	s, ok := leaf.(string)
	if !ok {
		r.add(path, "must be text in quotes, not %s", show(leaf))
		return def
	}
	return strings.Clone(s) // a part of the whole text, which would stay in memory with it
}

// flag reads true or false.
func (r *report) flag(path string, leaf any, def bool) bool {
	if leaf == nil {
		return def
	}
	b, ok := leaf.(bool)
	if !ok {
		r.add(path, "must be true or false, without quotes, not %s", show(leaf))
		return def
	}
	return b
}

// flagOrAll reads true, false or "all"; "all" sets both results.
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

// number reads a whole number between two bounds, both included.
func (r *report) number(path string, leaf any, low, high, def int) int {
	if leaf == nil {
		return def
	}
	n, ok := leaf.(int64)
	switch {
	case !ok:
		r.add(path, "must be a whole number, not %s%s", show(leaf), unquoted(leaf))
	case n < int64(low) || n > int64(high):
		r.add(path, "%d is out of range: %d to %d", n, low, high)
	default:
		return int(n)
	}
	return def
}

// oneOf reads one of several words; the first is the default.
func (r *report) oneOf(path string, leaf any, values ...string) string {
	s := r.text(path, leaf, values[0])
	if !slices.Contains(values, s) {
		says := fmt.Sprintf("%q must be one of %s", s, alternatives(values))
		if meant := guessWord(s, values); meant != "" {
			says += fmt.Sprintf(": did you mean %q?", meant)
		}
		r.add(path, "%s", says)
	}
	return s
}

// duration reads a time between two bounds, both included, or 0.
func (r *report) duration(path string, leaf any, low, high, def time.Duration) time.Duration {
	switch leaf.(type) {
	case int64, float64:
		r.add(path, "needs quotes and a unit: write \"%[1]ss\" for %[1]s seconds", show(leaf))
		return def
	}
	s := r.text(path, leaf, def.String())
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		r.add(path, "%q must be a duration such as \"1s\" or \"500ms\"%s", s, meantDuration(s))
	case d != 0 && (d < low || d > high):
		r.add(path, "%s is out of range: %s to %s, or 0s to turn it off", s, typed.Brief(low), typed.Brief(high))
	default:
		return d
	}
	return def
}

// listen reads host:port. The host may be empty or a name: whether it resolves to an
// address of this host shows when meshd listens.
func (r *report) listen(path string, leaf any) string {
	if port, ok := leaf.(int64); ok {
		leaf = strconv.FormatInt(port, 10)
	}
	s := r.text(path, leaf, "")
	if s == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || !validPort(port) || strings.ContainsFunc(host, notPrintable) {
		r.add(path, "%q must be host:port such as \"127.0.0.1:9285\"%s", s, meantListener(s))
	}
	return s
}

// notPrintable reports whether c is a blank, a control character or not ASCII.
func notPrintable(c rune) bool { return c <= ' ' || c > '~' }

// validPort accepts numbers only: a name such as "http" means what /etc/services says on
// each host.
func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// file reads the absolute path of a file that meshd writes, or nothing. The path must be
// in its shortest form, so that two equal paths are equal strings.
func (r *report) file(path string, leaf any, def string) string {
	s := r.text(path, leaf, def)
	switch {
	case s == "":
	case !filepath.IsAbs(s):
		r.add(path, "%q must be an absolute path: one that begins with /", s)
	case filepath.Clean(s) != s:
		r.add(path, "%q must be an absolute path without \".\", \"..\" or \"//\": write %q", s, filepath.Clean(s))
	}
	return s
}

// ownFiles checks that the files that meshd writes are two, and neither the configuration nor the
// private key.
func (r *report) ownFiles(config *Config) {
	c := config.Container
	own, err := filepath.Abs(r.path)
	if err != nil {
		own = r.path
	}
	if c.SubnetEnv != "" && c.SubnetEnv == c.CNIConf {
		r.add("container.cni_conf", "%q is also container.subnet_env: give two different paths", c.CNIConf)
	}
	written := map[string]string{"container.subnet_env": c.SubnetEnv, "container.cni_conf": c.CNIConf}
	for key, path := range written {
		switch path {
		case "":
		case own:
			r.add(key, "%q is the configuration file itself: give another path", path)
		case config.WireGuard.PrivateKey:
			r.add(key, "%q is wireguard.private_key: meshd would overwrite the key; give another path", path)
		}
	}
	if config.WireGuard.PrivateKey == own {
		r.add("wireguard.private_key", "%q is the configuration file itself: give another path", own)
	}
}

// ownInterfaces are the names of meshd's interfaces beside the TUN: the encrypted one
// (wireguard.Interface), the pair that merges TCP, and those of IP in IP (dataplane/kernel).
var ownInterfaces = []string{"meshd-wg", "meshd-gro0", "meshd-gro1", "meshd-in", "meshd-in6", "meshd-sit0"}

// interfaceName reads the name of a network interface. The rules are the kernel's
// (dev_valid_name in net/core/dev.c, IFNAMSIZ) and two more. A '%' would make the TUN
// driver choose a number (dev_alloc_name). Bytes above ASCII are refused because the
// kernel takes some of them for blanks (isspace of 0xa0).
func (r *report) interfaceName(path string, leaf any, def string) string {
	const maxBytes = 15 // IFNAMSIZ less the zero byte
	s := r.text(path, leaf, def)
	forbidden := func(c rune) bool { return notPrintable(c) || c == '/' || c == ':' || c == '%' }
	switch {
	case s == "" || s == "." || s == "..":
		r.add(path, "%q is not a valid interface name: write one such as \"mesh0\"", s)
	case strings.ContainsFunc(s, forbidden):
		bad := []rune(s[strings.IndexFunc(s, forbidden):])[0]
		r.add(path, "%q is not a valid interface name: it has %q in it", s, string(bad))
	case len(s) > maxBytes:
		r.add(path, "%q is longer than %d bytes, the kernel's limit", s, maxBytes)
	case s == "lo" || s == "all" || s == "default": // the last two are folders of /proc/sys/net/ipv4/conf
		r.add(path, "%q is reserved by the kernel", s)
	case slices.Contains(ownInterfaces, s):
		r.add(path, "%q is another interface of meshd's: choose another name, such as \"mesh0\"", s)
	}
	return s
}

// list calls one for each element of a list, with its path. If single is true, a lone
// value counts as a list of one.
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
		if text, ok := leaf.(string); ok && notOne(text) == "" && !strings.ContainsAny(text, "[]\"'") {
			r.add(path, "must be a list: write [%q]", text)
			return
		}
		r.add(path, "must be a list such as [\"10.244.1.0/24\"], not %s", show(leaf))
	}
}

// prefixes reads a list of prefixes and leaves out those with faults; at[i] is the path of
// ps[i], for the checks that follow.
func (r *report) prefixes(path string, leaf any, single bool) (ps []netip.Prefix, at []string) {
	r.list(path, leaf, single, func(path string, leaf any) {
		if p, ok := r.prefix(path, leaf); ok {
			ps, at = append(ps, p), append(at, path)
		}
	})
	return ps, at
}

// prefix reads one prefix in CIDR form, without host bits: 10.244.1.7/24 may be a typing
// error for /32 or for 10.244.1.0/24, so meshd does not guess.
func (r *report) prefix(path string, leaf any) (netip.Prefix, bool) {
	s, ok := leaf.(string)
	if !ok {
		r.add(path, "must be a prefix in quotes such as \"10.244.1.0/24\", not %s", show(leaf))
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		r.add(path, "%s", notPrefix(s))
	case p.Addr().Is4In6():
		r.add(path, "%s is an IPv4-mapped IPv6 prefix: write it as IPv4", s)
	case p != p.Masked():
		r.add(path, "%s has host bits set: the network is %s", s, p.Masked())
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

// addresses reads the addresses of a node: one, or a list of them in order of preference. at[i] is the
// path of as[i].
func (r *report) addresses(path string, leaf any, port uint16) (as []Address, at []string) {
	list, several := leaf.([]any)
	switch {
	case several && len(list) == 0:
		r.add(path, "is an empty list: give at least one address")
		return nil, nil
	case len(list) > MaxAddresses:
		r.add(path+"["+strconv.Itoa(MaxAddresses)+"]",
			"a node has %d addresses at most, and this one has %d: delete some", MaxAddresses, len(list))
		leaf = list[:MaxAddresses]
	}
	r.list(path, leaf, true, func(path string, leaf any) {
		if a, ok := r.endpoint(path, leaf, port); ok {
			as, at = append(as, a), append(at, path)
		}
	})
	return as, at
}

// endpoint reads an underlay address: an IP address or a host name, with or without a port. The file is the
// same on all hosts, so an address must mean the same on all of them: no zones, no loopback, no IPv6
// link-local.
func (r *report) endpoint(path string, leaf any, port uint16) (Address, bool) {
	s, ok := leaf.(string)
	if !ok {
		r.add(path, "must be an address in quotes such as \"172.18.0.3\", or a list of addresses, not %s",
			show(leaf))
		return Address{}, false
	}
	addr, err := netip.ParseAddr(s)
	endpoint := netip.AddrPortFrom(addr, port)
	if err != nil {
		endpoint, err = netip.ParseAddrPort(s)
	}
	if err != nil {
		a, ok := named(s, port)
		if !ok {
			r.add(path, "%s", notEndpoint(s))
		}
		return a, ok
	}
	ip := endpoint.Addr()
	switch says := NotUnderlay(ip); {
	case endpoint.Port() == 0:
		r.add(path, "%q: port 0 is not valid: give a port from 1 to 65535", s)
	case ip.Zone() != "":
		r.add(path, "%q: a zone has a different meaning on every host: use a global address", s)
	case ip.Is4In6():
		r.add(path, "%q is an IPv4-mapped address: write %s", s, ip.Unmap())
	case says != "":
		r.add(path, "%s %s", ip, says)
	default:
		return Address{AddrPort: endpoint}, true
	}
	return Address{}, false
}

// NotUnderlay says why the other hosts cannot reach a node at an address; empty if they can. The address
// comes before what it says.
func NotUnderlay(ip netip.Addr) string {
	switch {
	case ip.IsLoopback():
		return "is a loopback address, which other hosts cannot reach: use a global address"
	case ip.IsLinkLocalUnicast() && ip.Is6():
		return "is a link-local address, which needs an interface: use a global address"
	case !unicast(netip.PrefixFrom(ip, ip.BitLen())) && !ip.IsLinkLocalUnicast():
		return "cannot be the address of a host"
	}
	return ""
}

// routes reads the further prefixes of a node: each is a prefix, or a table that has its metric, too.
// paths[i] is that of rs[i].
func (r *report) routes(path string, leaf any) (rs []Route, paths []string) {
	switch leaf.(type) {
	case rawTable, []rawTable:
		r.add(path, "must be a list inside of its node: write "+
			"routes = [{ prefix = \"192.168.7.0/24\", metric = %d }]", DefaultMetric)
		return nil, nil
	}
	r.list(path, leaf, false, func(element string, leaf any) {
		route := Route{Metric: DefaultMetric}
		at, of := element, leaf
		if table, ok := leaf.(rawTable); ok {
			route.Metric = r.number(element+".metric", table["metric"], 0, maxMetric, DefaultMetric)
			at, of = element+".prefix", table["prefix"]
			if of == nil {
				if !r.excused[path+".prefix"] {
					r.missing(at, "is missing: every route needs one")
				}
				return
			}
		}
		if p, ok := r.prefix(at, of); ok {
			route.Prefix = p
			rs, paths = append(rs, route), append(paths, at)
		}
	})
	return rs, paths
}
