package nft

import (
	"net/netip"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func endpoints(ss ...string) (es []netip.AddrPort) {
	for _, s := range ss {
		es = append(es, netip.MustParseAddrPort(s))
	}
	return es
}

// A word is one that a packet either passes or not.
type word struct {
	exprs  Exprs
	packet packet
	want   bool
}

func check(t *testing.T, words map[string]word, sets ...Set) {
	t.Helper()
	for name, w := range words {
		t.Run(name, func(t *testing.T) {
			if got := matches(t, w.exprs, w.packet, sets...); got != w.want {
				t.Errorf("%v, want %v", got, w.want)
			}
		})
	}
}

// Words about addresses, for tables of one family and of both.
func TestAddressWords(t *testing.T) {
	four, six := udp4("10.1.2.3", "10.9.9.9", 53), udp6("fd00::1", "2001:db8::9", 53)
	both4, both6 := IPv4.InBoth(), IPv6.InBoth()
	nets := prefixes("10.1.0.0/16", "fd00::/48")
	sets := []Set{
		IPv4.Prefixes("net", nets), both4.Prefixes("net", nets), both6.Prefixes("net", nets),
		both4.Addresses("host", []netip.Addr{netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("fd00::1")}),
		both6.Addresses("host", []netip.Addr{netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("fd00::1")}),
	}
	check(t, map[string]word{
		"source in a set":            {IPv4.SourceIn("net"), four, true},
		"source not in a set":        {IPv4.SourceNotIn("net"), four, false},
		"destination in a set":       {IPv4.DestinationIn("net"), four, false},
		"destination not in a set":   {IPv4.DestinationNotIn("net"), four, true},
		"in a table of both":         {Join(both4.Guard(), both4.SourceIn("net")), four, true},
		"IPv6 in a table of both":    {Join(both6.Guard(), both6.SourceIn("net")), six, true},
		"guard against IPv6":         {both4.Guard(), six, false},
		"guard against IPv4":         {both6.Guard(), four, false},
		"no guard in a table of one": {IPv4.Guard(), six, true},
		"an address":                 {both4.DestinationIn("host"), four, true},
		"an IPv6 address":            {both6.SourceIn("host"), six, true},
		"another IPv6 address":       {both6.DestinationIn("host"), six, false},
	}, sets...)
}

// The prefix words agree with netip about every length.
func TestInsideAgreesWithNetip(t *testing.T) {
	for _, test := range []struct {
		family Family
		packet packet
		base   string
	}{
		{IPv4, udp4("10.171.205.239", "10.171.205.239", 1), "10.171.205.239"},
		{IPv4, udp4("10.171.205.239", "10.171.205.239", 1), "10.171.205.238"},
		{IPv4, udp4("10.171.205.239", "10.171.205.239", 1), "138.171.205.239"},
		{IPv6, udp6("fd00:1::abcd", "fd00:1::abcd", 1), "fd00:1::abcd"},
		{IPv6, udp6("fd00:1::abcd", "fd00:1::abcd", 1), "fd00:1::abcc"},
		{IPv6, udp6("fd00:1::abcd", "fd00:1::abcd", 1), "fd00:3::abcd"},
	} {
		at := test.family.saddr
		ip, _ := netip.AddrFromSlice(test.packet.network[at : at+test.family.length])
		for bits := range ip.BitLen() + 1 {
			p, _ := netip.MustParseAddr(test.base).Prefix(bits)
			for _, exprs := range []Exprs{test.family.SourceInside(p), test.family.DestinationInside(p)} {
				if got := matches(t, exprs, test.packet); got != p.Contains(ip) {
					t.Errorf("%s inside %s: %v", ip, p, got)
				}
			}
		}
	}
}

// A node's port is address and port together.
func TestEndpointWord(t *testing.T) {
	four, six := IPv4.InBoth(), IPv6.InBoth()
	nodes := endpoints("10.9.9.9:8285", "10.9.9.8:9000", "[fd00::9]:8285")
	fragment := udp4("10.0.0.1", "10.9.9.9", 8285).with(func(p *packet) { p.transport = nil })
	check(t, map[string]word{
		"a node's":               {four.EndpointIn("nodes"), udp4("10.0.0.1", "10.9.9.9", 8285), true},
		"another port":           {four.EndpointIn("nodes"), udp4("10.0.0.1", "10.9.9.9", 9000), false},
		"another's port":         {four.EndpointIn("nodes"), udp4("10.0.0.1", "10.9.9.8", 9000), true},
		"another host":           {four.EndpointIn("nodes"), udp4("10.9.9.9", "10.0.0.1", 8285), false},
		"a node's IPv6":          {six.EndpointIn("nodes"), udp6("fd00::1", "fd00::9", 8285), true},
		"another IPv6 port":      {six.EndpointIn("nodes"), udp6("fd00::1", "fd00::9", 8286), false},
		"a packet without ports": {four.EndpointIn("nodes"), fragment, false},
	}, four.Endpoints("nodes", nodes), six.Endpoints("nodes", nodes))
}

// Multicast groups by RFC 5771 and RFC 4291.
func TestMulticastWord(t *testing.T) {
	for to, want := range map[string]bool{
		"223.255.255.255": true, "224.0.0.1": false, "239.255.255.255": false, "240.0.0.1": true,
		"fe80::1": true, "ff02::1": false, "ffff::1": false, "2001:db8::1": true,
	} {
		t.Run(to, func(t *testing.T) {
			f, p := IPv4, packet{}
			if netip.MustParseAddr(to).Is6() {
				f, p = IPv6, udp6("fd00::1", to, 1)
			} else {
				p = udp4("10.0.0.1", to, 1)
			}
			if got := matches(t, f.NotMulticast(), p); got != want {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

// Words about marks, protocols, ports and interfaces.
func TestOtherWords(t *testing.T) {
	between := func(in, out string) packet {
		return udp4("10.0.0.1", "10.0.0.2", 8285).with(func(p *packet) { p.mark, p.in, p.out = 0x4001, in, out })
	}
	udp := between("cni0", "eth0")
	tcp := udp.with(func(p *packet) { p.proto = unix.IPPROTO_TCP })
	sets := []Set{
		Interfaces("inside", []string{"cni0", "lo"}), SameInterfaces("bridged", []string{"cni0", "br1"}),
	}
	check(t, map[string]word{
		"a bit of the mark":            {MarkHas(0x4000), udp, true},
		"a bit that is not set":        {MarkHas(0x2000), udp, false},
		"this mark":                    {MarkIsNot(0x4001), udp, false},
		"another mark":                 {MarkIsNot(0x4000), udp, true},
		"UDP":                          {NotUDP(), udp, false},
		"TCP":                          {NotUDP(), tcp, true},
		"the port":                     {PortIs(8285), udp, true},
		"another port":                 {PortIs(8286), udp, false},
		"in by":                        {FromInterface("cni0"), udp, true},
		"in by a name that begins so":  {FromInterface("cni"), udp, false},
		"in by a longer name":          {FromInterface("cni01"), udp, false},
		"out by":                       {ToInterface("eth0"), udp, true},
		"out by another":               {ToOtherInterface("mesh0", "meshd-wg"), udp, true},
		"out by one of few":            {ToOtherInterface("mesh0", "eth0"), udp, false},
		"in by one of a set":           {FromInterfaceIn("inside"), udp, true},
		"in by none of a set":          {FromInterfaceNotIn("inside"), udp, false},
		"out by one of a set":          {ToInterfaceIn("inside"), udp, false},
		"from one to another":          {NotWithinInterfaceIn("bridged"), udp, true},
		"within a bridge of the set":   {NotWithinInterfaceIn("bridged"), between("cni0", "cni0"), false},
		"between two of the set":       {NotWithinInterfaceIn("bridged"), between("cni0", "br1"), true},
		"within one that is not in it": {NotWithinInterfaceIn("bridged"), between("lo", "lo"), true},
	}, sets...)
}

// Words about connections, in both spellings.
func TestConnectionWords(t *testing.T) {
	plain := udp4("10.0.0.1", "10.0.0.2", 1)
	of := func(status, state uint32) packet {
		return plain.with(func(p *packet) { p.tracked, p.status, p.state = true, status, state })
	}
	fresh, known := of(0, expr.CtStateBitNEW), of(0, expr.CtStateBitESTABLISHED)
	related, published := of(0, expr.CtStateBitRELATED), of(statusDestNAT, expr.CtStateBitNEW)
	check(t, map[string]word{
		"established":                       {Established(), known, true},
		"related":                           {Established(), related, true},
		"new":                               {Established(), fresh, false},
		"no connection":                     {Established(), plain, false},
		"published":                         {Published(), published, true},
		"not published":                     {Published(), known, false},
		"translated":                        {SourceTranslated(), of(statusSourceNAT, 0), true},
		"translated elsewhere":              {SourceTranslated(), published, false},
		"established, as iptables has it":   {IPTables(false), known, true},
		"related, as iptables has it":       {IPTables(false), related, true},
		"new, as iptables has it":           {IPTables(false), fresh, false},
		"published, as iptables has it":     {IPTables(true), published, true},
		"not published, as iptables has it": {IPTables(true), known, false},
	})
}

// What becomes of a packet: a verdict behind a counter, and one without.
func TestVerdicts(t *testing.T) {
	for name, test := range map[string]struct {
		exprs   Exprs
		kind    expr.VerdictKind
		counted bool
	}{
		"return": {Return(), expr.VerdictReturn, true}, "accept": {Accept(), expr.VerdictAccept, true},
		"drop": {Drop(), expr.VerdictDrop, true}, "pass": {Pass(), expr.VerdictAccept, false},
	} {
		t.Run(name, func(t *testing.T) {
			verdict, ok := test.exprs[len(test.exprs)-1].(*expr.Verdict)
			if !ok || verdict.Kind != test.kind {
				t.Errorf("%+v", verdict)
			}
			if _, counts := test.exprs[0].(*expr.Counter); counts != test.counted {
				t.Errorf("counts: %v", counts)
			}
		})
	}
	// A packet that keeps its source is translated to the address that it has.
	keep := IPv6.InBoth().KeepSource()
	load, nat := keep[1].(*expr.Payload), keep[2].(*expr.NAT)
	if load.Offset != 8 || load.Len != 16 || nat.RegAddrMin != load.DestRegister {
		t.Errorf("%+v, %+v", load, nat)
	}
	if nat.Family != unix.NFPROTO_IPV6 {
		t.Errorf("family %d", nat.Family)
	}
	if masq := Masquerade(true)[1].(*expr.Masq); !masq.FullyRandom {
		t.Errorf("%+v", masq)
	}
}

// Join copies: a rule that is made from a shared part does not change it.
func TestJoinCopies(t *testing.T) {
	shared := make(Exprs, 1, 10)
	shared[0] = &expr.Counter{}
	one, two := Join(shared, Accept()), Join(shared, Drop())
	if one[2].(*expr.Verdict).Kind != expr.VerdictAccept || two[2].(*expr.Verdict).Kind != expr.VerdictDrop {
		t.Error("the second rule overwrote the first")
	}
}
