package crossing

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nft"
	"example.org/meshd/internal/probe"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// wanted is node b of two, each with subnets of both families.
func wanted() Wanted {
	networks := prefixes("10.244.0.0/16", "fd00::/48")
	return Wanted{Ask: true, Interfaces: []string{"mesh0"}, Networks: networks, Mesh: mesh.Mesh{
		Self: "b", Peers: []mesh.Peer{
			{Name: "a", Subnets: prefixes("10.244.1.0/24", "fd00:0:0:1::/64")},
			{Name: "b", Subnets: prefixes("10.244.2.0/24", "fd00:0:0:2::/64")},
		}}}
}

// keeper returns a Keeper whose packets go to deliver, and the peers that it has answered.
func keeper(deliver func(k *Keeper, b []byte)) (*Keeper, *[]string) {
	var answered []string
	var k *Keeper
	k = New(Options{Log: slog.New(slog.DiscardHandler),
		Deliver: func(b []byte) error { deliver(k, b); return nil },
		Answer:  func(peer string, _ packet.Echo) { answered = append(answered, peer) },
		Leads:   func(bool) {}, Suspect: func() {}})
	k.setOnce() // Run would
	k.Set(wanted())
	return k, &answered
}

// News that come before the first Set are no round to rest from: the start of the daemon waits for the
// round after that Set.
func TestFirstSetWaitsForNoRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		k := New(Options{Log: slog.New(slog.DiscardHandler), Leads: func(bool) {}})
		close(k.opened) // Read would, and has no group: rules cannot be in force
		go func() { _ = k.Run(ctx) }()
		k.Wake()
		synctest.Wait()
		began := time.Now() // the bubble's clock, which stands still while anything runs
		k.Set(wanted())
		if rested := time.Since(began); rested != 0 {
			t.Errorf("the first Set waited for %v", rested)
		}
	})
}

// Own probes that arrive are not lost, whatever arrives besides them; others are.
func TestAsk(t *testing.T) {
	a, b := netip.MustParseAddr("10.244.1.0"), netip.MustParseAddr("10.244.2.254")
	pod := netip.MustParseAddr("10.244.2.2")
	k, answered := keeper(func(k *Keeper, p []byte) {
		if e, _ := packet.ParseEcho(p); e.Dst == b {
			k.take(p, 0)
			k.take(p, 0) // a duplicate
		}
	})
	lost := k.ask(t.Context(), []target{{from: a, to: b}, {from: a, to: pod, one: true}, {from: a, to: b}})
	if len(lost) != 1 || lost[0].to != pod || len(k.waiting) != 0 {
		t.Errorf("lost %v, waiting %d", lost, len(k.waiting))
	}
	if len(*answered) != 0 {
		t.Errorf("an own probe was answered to %v", *answered)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if lost := k.ask(ended, []target{{from: a, to: pod}}); len(lost) != 1 {
		t.Errorf("after the end: %v", lost)
	}
}

// Only whole probes of peers to this node's probe address are answered.
func TestAnswersPeers(t *testing.T) {
	payload := append([]byte(probe.Magic), make([]byte, probe.PayloadSize-len(probe.Magic))...)
	for _, test := range []struct {
		name, from, to string
		reply          bool
		want           string
	}{
		{"a peer's", "10.244.1.0", "10.244.2.254", false, "a"},
		{"of IPv6", "fd00:0:0:1::", "fd00:0:0:2:ffff:ffff:ffff:ffff", false, "a"},
		{"of a pod", "10.244.1.7", "10.244.2.254", false, ""},
		{"of a stranger", "192.0.2.1", "10.244.2.254", false, ""},
		{"to a pod", "10.244.1.0", "10.244.2.7", false, ""},
		{"a reply", "10.244.1.0", "10.244.2.254", true, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			k, answered := keeper(func(*Keeper, []byte) {})
			k.take(packet.Echo{Src: netip.MustParseAddr(test.from), Dst: netip.MustParseAddr(test.to),
				Reply: test.reply, Payload: payload}.Append(nil), 0)
			if got := strings.Join(*answered, " "); got != test.want {
				t.Errorf("answered %q, want %q", got, test.want)
			}
		})
	}
	t.Run("inside a tunnel", func(t *testing.T) {
		for _, test := range []struct {
			name, from string
			port       uint16 // of the Keeper
			want       string
		}{
			{"of a peer", "10.244.1.0", 8286, "a"},
			{"of a pod", "10.244.1.7", 8286, ""},
			{"another port", "10.244.1.0", 8287, ""},
			{"packets travel bare", "10.244.1.0", 0, ""},
		} {
			t.Run(test.name, func(t *testing.T) {
				k, answered := keeper(func(*Keeper, []byte) {})
				s := *k.wanted.Load()
				s.Port = test.port
				k.wanted.Store(&s)
				k.take(datagram(test.from, "10.244.2.254", 8286, payload), 0)
				if got := strings.Join(*answered, " "); got != test.want {
					t.Errorf("answered %q, want %q", got, test.want)
				}
			})
		}
	})
	k, answered := keeper(func(*Keeper, []byte) {})
	for _, damaged := range [][]byte{nil, {0x45}, make([]byte, 20)} {
		k.take(damaged, 0)
	}
	if len(*answered) != 0 {
		t.Errorf("damaged packets were answered to %v", *answered)
	}
}

// datagram returns a UDP datagram of IPv4 without a checksum.
func datagram(from, to string, port uint16, payload []byte) []byte {
	b := make([]byte, packet.HeaderLen4+packet.UDPHeaderLen, 128)
	b[0], b[8], b[9] = 0x45, 63, packet.ProtoUDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(payload)))
	copy(b[12:], netip.MustParseAddr(from).AsSlice())
	copy(b[16:], netip.MustParseAddr(to).AsSlice())
	binary.BigEndian.PutUint16(b[22:], port)
	binary.BigEndian.PutUint16(b[24:], uint16(packet.UDPHeaderLen+len(payload)))
	return append(b, payload...)
}

// The command of a remedy is the one for the program whose rule it is.
func TestRemedy(t *testing.T) {
	k, _ := keeper(func(*Keeper, []byte) {})
	s := k.wanted.Load()
	for _, test := range []struct {
		name string
		at   nft.Spot
		hook nft.Hook
		to   string
		want string
	}{
		{"firewalld",
			nft.Spot{Family: "inet", Table: "firewalld", Base: "filter_FORWARD", Chain: "filter_FWD_public"},
			*nft.Forward, "10.244.2.254",
			"run `firewall-cmd --permanent --zone=trusted --add-source=10.244.0.0/16 && firewall-cmd --reload`"},
		{"ufw", nft.Spot{Family: "ip", Table: "filter", Base: "FORWARD", Chain: "ufw-reject-forward"}, *nft.Forward,
			"10.244.2.254", "run `ufw route allow in on mesh0 && ufw route allow out on mesh0`"},
		{"Docker's iptables", nft.Spot{Family: "ip", Table: "filter", Base: "FORWARD", Chain: "DOCKER"},
			*nft.Forward, "10.244.2.254",
			"run `iptables -I DOCKER-USER -i mesh0 -j ACCEPT && iptables -I DOCKER-USER -o mesh0 -j ACCEPT`"},
		{"raw", nft.Spot{Family: "ip6", Table: "raw", Base: "PREROUTING", Chain: "PREROUTING"}, *nft.Prerouting,
			"fd00:0:0:2::7", "run `ip6tables -t raw -I PREROUTING -i mesh0 -j ACCEPT`"},
		{"mangle behind routing", nft.Spot{Family: "ip", Table: "mangle", Base: "POSTROUTING", Chain: "own"},
			*nft.Postrouting, "10.244.2.254", "run `iptables -t mangle -I POSTROUTING -d 10.244.2.0/24 -j ACCEPT && " +
				"iptables -t mangle -I POSTROUTING -o mesh0 -j ACCEPT`"},
		{"another table", nft.Spot{Family: "inet", Table: "own", Base: "fwd", Chain: "deeper"}, *nft.Forward,
			"10.244.2.254", "run `nft 'insert rule inet own fwd iifname \"mesh0\" accept; " +
				"insert rule inet own fwd oifname \"mesh0\" accept'`"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := remedy(test.at, nft.Found{Hook: test.hook}, s, netip.MustParseAddr(test.to)); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// Where packets travel encrypted they come in by two interfaces, and a rule about neither is named once.
func TestRemedyOfTwoInterfaces(t *testing.T) {
	k, _ := keeper(func(*Keeper, []byte) {})
	s := *k.wanted.Load()
	s.Interfaces = []string{"mesh0", "meshd-wg"}
	for _, test := range []struct {
		name string
		at   nft.Spot
		hook nft.Hook
		want string
	}{
		{"ufw", nft.Spot{Family: "ip", Table: "filter", Base: "FORWARD", Chain: "ufw-reject-forward"}, *nft.Forward,
			"run `ufw route allow in on mesh0 && ufw route allow out on mesh0 && " +
				"ufw route allow in on meshd-wg && ufw route allow out on meshd-wg`"},
		{"mangle behind routing", nft.Spot{Family: "ip", Table: "mangle", Base: "POSTROUTING", Chain: "own"},
			*nft.Postrouting, "run `iptables -t mangle -I POSTROUTING -d 10.244.2.0/24 -j ACCEPT && " +
				"iptables -t mangle -I POSTROUTING -o mesh0 -j ACCEPT && " +
				"iptables -t mangle -I POSTROUTING -o meshd-wg -j ACCEPT`"},
		{"another table", nft.Spot{Family: "inet", Table: "own", Base: "pre", Chain: "pre"}, *nft.Prerouting,
			"run `nft 'insert rule inet own pre iifname \"mesh0\" accept; " +
				"insert rule inet own pre iifname \"meshd-wg\" accept'`"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := remedy(test.at, nft.Found{Hook: test.hook}, &s, netip.MustParseAddr("10.244.2.254"))
			if got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// Conditions that stay are neither begun nor ended again, whatever their cause is by now.
func TestHas(t *testing.T) {
	c := mesh.Condition{Kind: mesh.PodsFiltered, Subject: "ip raw PREROUTING", Cause: "one"}
	again := c
	again.Cause = "another"
	other := c
	other.Subject = "ip raw other"
	if !has([]mesh.Condition{c}, again) || has([]mesh.Condition{c}, other) || has(nil, c) {
		t.Error("by its place")
	}
}
