package nft

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/nstest"
)

// load loads rules in the words of nft.
func load(t *testing.T, n *nstest.Namespace, rules string) {
	t.Helper()
	if _, err := n.Run("nft", rules); err != nil {
		t.Fatal(err)
	}
}

// What describe makes of rules is what nft(8) would print, as far as it has words.
func TestDescribe(t *testing.T) {
	for _, test := range []struct{ name, rule, want string }{
		{"reject", "reject with icmpx admin-prohibited", "reject"},
		{"interfaces", `iifname "eth0" oifname != "cni*" counter drop`, `iifname "eth0" oifname != "cni*" drop`},
		{"an address", "ip daddr 10.244.2.2 drop", "meta nfproto 0x02 ip daddr 10.244.2.2 drop"},
		{"whole bytes of an address", "ip saddr 10.0.0.0/8 drop", "meta nfproto 0x02 ip saddr 10.0.0.0/8 drop"},
		{"a prefix", "ip saddr 100.64.0.0/10 drop", "meta nfproto 0x02 ip saddr 100.64.0.0/10 drop"},
		{"IPv6", "ip6 daddr fd00::/8 drop", "meta nfproto 0x0a ip6 daddr fd00::/8 drop"},
		{"states", "ct state invalid,new drop", "ct state invalid,new drop"},
		{"a set", "ip daddr @pods drop", "meta nfproto 0x02 ip daddr @pods drop"},
		{"a jump and a comment", `jump other comment "why"`, `jump other comment "why"`},
		{"a limit", "limit rate 1/second log prefix \"x\" drop", "limit log drop"},
	} {
		t.Run(test.name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				load(t, n, "table inet t { set pods { type ipv4_addr; }; chain other { }; chain c { "+test.rule+"; }; }")
				conn, err := open()
				if err != nil {
					t.Fatal(err)
				}
				c := &nftables.Chain{Table: Both("t").table(), Name: "c"}
				rules, err := listRules(conn, c)
				if err != nil || len(rules) != 1 {
					t.Fatal(rules, err)
				}
				if got := describe(rules[0]); got != test.want {
					t.Errorf("%q, want %q", got, test.want)
				}
			})
		})
	}
}

func TestEndsInDrop(t *testing.T) {
	for _, test := range []struct {
		name, rules string
		want        bool
	}{
		{"no rules", "chain c { }", false},
		{"rejects the rest", "chain c { ct state established accept; counter reject; }", true},
		{"logs and drops the rest", `chain c { counter log prefix "x" drop comment "rest"; }`, true},
		{"drops some", `chain c { iifname "eth0" drop; }`, false},
		{"drops what is too much", "chain c { limit rate over 1/second drop; }", false},
		{"goes on behind a drop", "chain c { drop; accept; }", false},
		{"jumps to a chain that rejects", "chain a { reject; }; chain c { jump a; }", true},
		{"jumps twice", "chain a { drop; }; chain b { goto a; }; chain c { jump b; }", true},
		{"jumps on a condition", `chain a { drop; }; chain c { iifname "eth0" jump a; }`, false},
		{"jumps to an empty chain", "chain a { }; chain c { jump a; }", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				load(t, n, "table inet t { "+test.rules+"; }")
				conn, err := open()
				if err != nil {
					t.Fatal(err)
				}
				c := &nftables.Chain{Table: Both("t").table(), Name: "c"}
				rules, err := listRules(conn, c)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := endsInDrop(conn, c, rules, maxJumps); err != nil || got != test.want {
					t.Errorf("%v, %v", got, err)
				}
			})
		})
	}
}

// Addresses of pods that rules name are found, wherever a rule has them, and no others.
func TestMentions(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		load(t, n, `table ip raw { chain PREROUTING { type filter hook prerouting priority raw
				ip daddr 10.244.2.2 iifname != "cni0" drop; ip daddr 10.244.2.2 accept; ip saddr 10.244.2.9 drop
				ip daddr 10.244.2.0/24 accept; ip daddr 10.244.2.64/26 drop; ip daddr 192.0.2.1 drop; }; }
			table inet f { set pods { type ipv4_addr; elements = { 10.244.2.7, 192.0.2.2 }; }
				chain f { type filter hook forward priority 0; ip daddr @pods drop; ip6 daddr fd00:2::7 drop
				ip daddr vmap { 10.244.2.11 : drop }; }; }
			table inet meshd-other { chain c { ip daddr 10.244.2.3 accept; }; }`)
		within := []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("fd00:2::/64")}
		got, err := Mentions(within, 100)
		var texts []string
		for _, a := range got {
			texts = append(texts, a.String())
		}
		slices.Sort(texts)
		want := []string{"10.244.2.11", "10.244.2.2", "10.244.2.65", "10.244.2.7", "fd00:2::7"}
		if err != nil || !slices.Equal(texts, want) {
			t.Errorf("%q, %v, want %q", texts, err, want)
		}
		if few, err := Mentions(within, 2); err != nil || len(few) != 2 {
			t.Errorf("of two: %v, %v", few, err)
		}
	})
}

func TestGenerationChanges(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		first, err := Generation()
		same, err2 := Generation()
		load(t, n, "add table ip t")
		next, err3 := Generation()
		if err := errors.Join(err, err2, err3); err != nil || first != same || next == same {
			t.Errorf("%d, %d, %d, %v", first, same, next, err)
		}
	})
}

// A group of NFLOG that another program has is left to it.
func TestLogFindsAFreeGroup(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, _ *nstest.Namespace) {
		var logs []*Log
		for i := range uint16(logGroups) {
			l, err := OpenLog(100, 128)
			if err != nil {
				t.Fatal(err)
			}
			if l.Group() != 100+i {
				t.Errorf("group %d", l.Group())
			}
			logs = append(logs, l)
		}
		if _, err := OpenLog(100, 128); !errors.Is(err, unix.EPERM) {
			t.Errorf("all groups are taken: %v", err)
		}
		for _, l := range logs {
			l.Close()
		}
		l, err := OpenLog(100, 128)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	})
}

// Nothing is traced where no packet is.
func TestTraceOfNothing(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, _ *nstest.Namespace) {
		trace, err := OpenTrace()
		if err != nil {
			t.Fatal(err)
		}
		defer trace.Close()
		if at, fate, err := trace.End(time.Millisecond); err != nil || fate != Unseen {
			t.Errorf("%+v, %v, %v", at, fate, err)
		}
	})
}

// The base chain is the one from which jumps of the same packet led to where it ended.
func TestBaseOf(t *testing.T) {
	in := func(id uint32, table, chain, to string) step {
		return step{id: id, spot: Spot{Table: table, Chain: chain}, jumps: to != "", to: to}
	}
	for _, test := range []struct {
		name  string
		steps []step
		want  string
	}{
		{"itself", []step{in(1, "t", "c", "")}, "c"},
		{"by two jumps", []step{in(1, "t", "base", "a"), in(1, "t", "a", "b"), in(1, "t", "b", "")}, "base"},
		{"of another packet", []step{in(2, "t", "base", "a"), in(1, "t", "a", "")}, "a"},
		{"of another table", []step{in(1, "u", "base", "a"), in(1, "t", "a", "")}, "a"},
		{"back from another chain", []step{in(1, "t", "base", "x"), in(1, "t", "x", ""), in(1, "t", "base", "a"),
			in(1, "t", "a", "")}, "base"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := baseOf(test.steps).Base; got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// FuzzLogAndTrace: whatever the kernel sends is read or ignored.
func FuzzLogAndTrace(f *testing.F) {
	packet, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: logPayload, Data: []byte{0x45, 0}}, {Type: logOut, Data: []byte{0, 0, 0, 7}}})
	if err != nil {
		f.Fatal(err)
	}
	verdict, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_VERDICT_CODE, Data: []byte{0xff, 0xff, 0xff, 0xfd}},
		{Type: unix.NFTA_VERDICT_CHAIN, Data: []byte("next\x00")}})
	if err != nil {
		f.Fatal(err)
	}
	rule, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TRACE_TABLE, Data: []byte("t\x00")}, {Type: unix.NFTA_TRACE_CHAIN, Data: []byte("c\x00")},
		{Type: unix.NFTA_TRACE_TYPE, Data: []byte{0, 0, 0, traceRule}},
		{Type: unix.NFTA_TRACE_VERDICT | unix.NLA_F_NESTED, Data: verdict}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(make([]byte, genHeader), packet...))
	f.Add(append([]byte{unix.NFPROTO_INET, 0, 0, 0}, rule...))
	f.Fuzz(func(t *testing.T, data []byte) {
		defer budget.Of(t)()
		p, _ := logged(netlink.Message{Header: netlink.Header{Type: logPacket}, Data: data})
		if len(p) > len(data) {
			t.Error("more than there is")
		}
		kind := netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_TRACE)
		s, ok := stepOf(netlink.Message{Header: netlink.Header{Type: kind}, Data: data})
		if ok && s.jumps != (s.to != "") || s.ends && s.jumps {
			t.Errorf("%+v", s)
		}
	})
}
