package nft

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/nstest"
)

// Rules that name the mesh port on the way out are found, with the peers that they are about, whoever
// wrote them and in whatever form.
func TestFindOutgoing(t *testing.T) {
	const all, b, c, none = "b c d", "b", "c", ""
	out := func(rules string) string {
		return "nft 'table inet t { chain o { type filter hook output priority 0; " + rules + "; }; }'"
	}
	for _, test := range []struct{ name, rules, about string }{
		{"no rules", "true", none},
		{"a mark", out("udp dport 8285 meta mark set 7"), all},
		{"a DSCP value", out("ip daddr 172.18.0.3 udp dport 8285 ip dscp set ef"), b},
		{"the source port", out("udp sport 8285 reject"), all},
		{"any protocol", out("meta l4proto udp th dport 8285 log"), all},
		{"a count", out("udp dport 8285 counter"), all},
		{"no tracking", out("udp dport 8285 notrack"), all},
		{"an accept", out("udp dport 8285 counter accept"), none},
		{"another port", out("udp dport 8286 drop"), none},
		{"all but the port", out("udp dport != 8285 drop"), none},
		{"TCP", out("tcp dport 8285 drop"), none},
		{"no port", out("ip daddr 172.18.0.0/16 meta mark set 7"), none},
		{"a range", out("udp dport 8000-9000 counter"), all},
		{"a greater port", out("udp dport > 8284 counter"), all},
		{"a less port", out("udp dport < 8285 counter"), none},
		{"both ports at once", out("@th,0,32 0x205d205d counter"), all},
		{"a set of ports", out("udp dport { 53, 8285, 9000-9010 } counter"), all},
		{"a set of other ports", out("udp dport { 53, 8286 } counter"), none},
		{"none of a set", out("udp dport != { 53, 8286 } counter"), all},
		{"intervals", out("udp dport { 8000-8284, 8286-9000 } counter"), none},
		{"intervals in a row", out("udp dport { 1-8284, 8285-8285, 8286-9000 } counter"), all},
		{"an address and a port", out("ip daddr . udp dport { 172.18.0.4 . 8285 } counter"), c},
		{"addresses and ports", out("ip daddr . udp dport { 172.18.0.0/28 . 8000-9000 } counter"), "b c"},
		{"a set of addresses", out("ip daddr { 172.18.0.3, 172.18.0.9 } udp dport 8285 counter"), b},
		{"all but a prefix", out("ip daddr != 172.18.0.3 udp dport 8285 counter"), c},
		{"IPv6", out("ip6 daddr fd00::5 udp dport 8285 counter"), "d"},
		{"IPv6 alone", out("meta nfproto ipv6 udp dport 8285 counter"), "d"},
		{"a verdict map", out("udp dport vmap { 53 : accept, 8285 : drop }"), all},
		{"a verdict map for others", out("udp dport vmap { 53 : drop, 8285 : accept }"), none},
		{"a jump with the port", "nft 'table inet t { chain x { meta mark set 7; }; chain o { type route hook " +
			"output priority 0; udp dport 8285 jump x; }; }'", all},
		{"a jump before the port", "nft 'table inet t { chain x { udp dport 8285 meta mark set 7; }; chain o " +
			"{ type filter hook postrouting priority 0; ip daddr 172.18.0.3 goto x; }; }'", b},
		{"a map of chains", "nft 'table inet t { chain x { udp dport 8285 log; }; chain o { type filter hook " +
			"output priority 0; meta l4proto vmap { tcp : accept, udp : jump x }; }; }'", all},
		{"a chain that nothing leads to", "nft 'table inet t { chain x { udp dport 8285 log; }; }'", none},
		{"behind another condition", "nft 'table inet t { chain x { counter; }; chain o { type filter hook " +
			"output priority 0; tcp dport 8285 jump x; }; }'", none},
		{"another hook", "nft 'table inet t { chain i { type filter hook input priority 0; " +
			"udp dport 8285 drop; }; }'", none},
		{"egress", "nft 'table netdev t { chain e { type filter hook egress device lo priority 0; " +
			"ip daddr 172.18.0.4 udp dport 8285 ip dscp set ef; }; }'", c},
		{"ingress", "nft 'table netdev t { chain e { type filter hook ingress device lo priority 0; " +
			"udp dport 8285 counter; }; }'", none},
		{"ours", "nft 'table inet meshd-x { chain o { type filter hook output priority 0; " +
			"udp dport 8285 drop; }; }'", none},
		{"iptables", "iptables-nft -t mangle -A OUTPUT -p udp --dport 8285 -j MARK --set-mark 3", "b c"},
		{"iptables for one peer", "iptables-nft -A OUTPUT -p udp -d 172.18.0.4 --dport 8285 -j DROP", c},
		{"iptables accepts", "iptables-nft -A OUTPUT -p udp --dport 8285 -j ACCEPT", none},
		{"iptables on the way out", "iptables-nft -t mangle -A POSTROUTING -p udp -m multiport " +
			"--dports 53,8000:9000 -j DSCP --set-dscp 46", "b c"},
		{"iptables for other ports", "iptables-nft -A OUTPUT -p udp -m multiport ! --ports 8285 -j DROP", none},
		{"iptables without tracking", "iptables-nft -t raw -A OUTPUT -p udp --sport 8285 -j CT --notrack", "b c"},
		{"ip6tables", "ip6tables-nft -A OUTPUT -p udp --dport 8285 -j LOG", "d"},
		{"a chain of iptables", "iptables-nft -N own; iptables-nft -A own -p udp --dport 8285 -j LOG; " +
			"iptables-nft -A OUTPUT -d 172.18.0.0/16 -j own", "b c"},
	} {
		t.Run(test.name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				if out, err := n.Run("sh", "-ec", test.rules); err != nil {
					t.Fatal(err, out)
				}
				found, err := FindOutgoing(8285, peersOfTest)
				if err != nil {
					t.Fatal(err)
				}
				if got := names(found); got != test.about {
					t.Errorf("%q, want %q: %+v", got, test.about, found)
				}
			})
		})
	}
}

// Three peers, of which two have IPv4.
var peersOfTest = []netip.AddrPort{netip.MustParseAddrPort("172.18.0.3:8285"),
	netip.MustParseAddrPort("172.18.0.4:8285"), netip.MustParseAddrPort("[fd00::5]:8285")}

// names returns the letters of peersOfTest that some findings are about.
func names(found []Outgoing) string {
	var all []string
	for i, p := range peersOfTest {
		if slices.ContainsFunc(found, func(o Outgoing) bool { return slices.Contains(o.Peers, p) }) {
			all = append(all, string(rune('b'+i)))
		}
	}
	return strings.Join(all, " ")
}

// A chain is named once, by its first rule, and with all peers that its rules are about.
func TestOutgoingIsNamed(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		load(t, n, "table ip t { chain x { udp dport 8285 ip daddr 172.18.0.4 ip dscp set ef; ip dscp set cs1; }; "+
			"chain o { type filter hook output priority 0; udp dport 8285 accept; "+
			"ip daddr 172.18.0.3 udp dport 8285 jump x; jump x; }; }")
		found, err := FindOutgoing(8285, peersOfTest)
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		f := found[0]
		if f.Chain != "ip t x" || f.Rules != 2 || names(found) != "b c" ||
			!strings.Contains(f.Rule, "payload set") {
			t.Errorf("%+v", f)
		}
	})
}

// Peers with different ports are told apart.
func TestOutgoingPorts(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		load(t, n, "table ip t { chain o { type filter hook output priority 0; udp dport 9000 counter; }; }")
		to := []netip.AddrPort{netip.MustParseAddrPort("172.18.0.3:9000"),
			netip.MustParseAddrPort("172.18.0.3:9001")}
		found, err := FindOutgoing(8285, to)
		if err != nil || len(found) != 1 || !slices.Equal(found[0].Peers, to[:1]) {
			t.Errorf("%+v, %v", found, err)
		}
	})
}

// Whatever the kernel lists, and however damaged, is judged without a panic, and what a condition surely
// excludes is excluded whatever else the rule has.
func FuzzJudge(f *testing.F) {
	f.Add(uint32(1), uint32(1), uint32(2), uint32(2), []byte{0x20, 0x5d}, []byte{0xff, 0xff})
	f.Add(uint32(8), uint32(1), uint32(16), uint32(4), []byte{172, 18, 0, 3}, []byte{})
	f.Add(uint32(23), uint32(2), uint32(0), uint32(255), make([]byte, 48), []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, register, base, at, length uint32, data, more []byte) {
		defer budget.Of(t)()
		d := newDatagram(at%2 == 1, 8285, peersOfTest[0])
		set := newElements(&nftables.Set{Interval: length%2 == 1}, []nftables.SetElement{
			{Key: data, Val: more}, {Key: more, Val: data, IntervalEnd: at%2 == 1}, {Key: data, KeyEnd: more}})
		info := xt.Unknown(data)
		exprs := []expr.Any{
			&expr.Payload{DestRegister: register, Base: expr.PayloadBase(base), Offset: at, Len: length},
			&expr.Bitwise{SourceRegister: register, DestRegister: register + 1, Len: length, Mask: data, Xor: more},
			&expr.Cmp{Op: expr.CmpOp(base), Register: register, Data: data},
			&expr.Range{Op: expr.CmpOp(at), Register: register, FromData: data, ToData: more},
			&expr.Lookup{SourceRegister: register, DestRegister: at, IsDestRegSet: true, SetName: "x"},
			&expr.Match{Name: "multiport", Info: &info},
			&expr.Immediate{Register: register, Data: more},
		}
		read := func(string, bool) *elements { return set }
		d.judge(&nftables.Rule{Exprs: exprs}, read)
		tcp := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}}}
		if j := d.judge(&nftables.Rule{Exprs: append(tcp, exprs...)}, read); j.holds != never {
			t.Errorf("a rule for TCP: %+v", j)
		}
	})
}
