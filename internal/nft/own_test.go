package nft

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nstest"
)

// ownTables are what an owner keeps: a base chain that goes to another one, and a set.
func ownTables(names ...string) []Table {
	return []Table{{ID: IPv4.Table("meshd-own"), Sets: []Set{Interfaces("links", names)}, Chains: []Chain{
		{Name: "last", Rules: []Rule{{Name: "last", Exprs: Join(FromInterfaceIn("links"), Drop())}}},
		{Name: "forward", Type: Filter, Hook: Forward, Priority: BehindFilter,
			Rules: []Rule{{Name: "first", Exprs: Goto("last")}}},
	}}}
}

// The rules of a table that has lost its owner are in force until the next owner replaces them; while it has
// one, no other socket can change it.
func TestOwner(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		tables := ownTables("a")
		id := tables[0].ID
		k, next := NewOwner(id), NewOwner(id)
		defer next.Close()
		if changed, err := k.Set(tables); err != nil || !changed || !k.Owns() {
			t.Fatal(changed, err)
		}
		if _, err := next.Set(tables); !errors.Is(err, unix.EPERM) || next.Owns() {
			t.Errorf("a table of somebody else: %v", err)
		}
		list := func() string {
			out, err := n.Run("nft", "list", "table", "ip", "meshd-own")
			if err != nil {
				t.Error(err)
			}
			return out
		}
		if err := k.Close(); err != nil || k.Owns() || strings.Contains(list(), "owner") {
			t.Errorf("closed: %v\n%s", err, list())
		}
		if _, err := next.connect(); err != nil {
			t.Fatal(err)
		}
		if err := next.owner.claim(id); err != nil || !strings.Contains(list(), `"a"`) {
			t.Errorf("claimed: %v\n%s", err, list())
		}
		if changed, err := next.Set(ownTables("b")); err != nil || !changed || strings.Contains(list(), `"a"`) {
			t.Errorf("set: %v, %v\n%s", changed, err, list())
		}
		if changed, err := next.Set(ownTables("b")); err != nil || changed {
			t.Errorf("set again: %v, %v\n%s", changed, err, list())
		}
		if changed, err := next.Set(nil); err != nil || !changed {
			t.Errorf("no table: %v, %v", changed, err)
		}
		if out, err := n.Run("nft", "list", "ruleset"); err != nil || out != "" {
			t.Errorf("%v: left:\n%s", err, out)
		}
	})
}

// What the kernel refuses leaves the table as it was, and the owner goes on.
func TestOwnerRefused(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		good := ownTables("a")
		k := NewOwner(good[0].ID)
		defer k.Close()
		bad := ownTables("a")
		bad[0].Chains[1].Rules = []Rule{{Name: "first", Exprs: Goto("nowhere")}}
		for round := range 2 {
			if changed, err := k.Set(bad); err == nil || changed {
				t.Errorf("round %d: a chain that does not exist: %v, %v", round, changed, err)
			}
			// The table has no owner meanwhile, so it is not as wanted.
			if changed, err := k.Set(good); err != nil || !changed || !k.Owns() {
				t.Errorf("round %d: %v, %v", round, changed, err)
			}
		}
	})
}

// A transaction that is longer than any that a mesh of 10,000 nodes needs comes into force as a whole:
// 700,000 boxes of IPv6 have 36 MB.
func TestLongTransaction(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, _ *nstest.Namespace) {
		id := IPv6.Table("meshd-own")
		shape := Shape{Sources: true, FromBits: 128, ToBits: 128, Protocol: true, Port: true}
		all := make([]Box, 700_000)
		to := netip.MustParsePrefix("fd00::1/128")
		for i := range all {
			ip := netip.AddrFrom16([16]byte{0xfd, 1, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
			all[i] = Box{From: netip.PrefixFrom(ip, 128), To: to, Protocols: [2]uint8{6, 6}, Ports: [2]uint16{1, 1}}
		}
		k := NewOwner(id)
		defer k.Close()
		tables := []Table{{ID: id, Boxes: []Boxes{IPv6.Boxes("many", shape, false, all)}}}
		if changed, err := k.Set(tables); err != nil || !changed {
			t.Fatal(changed, err)
		}
		if changed, err := k.Set(tables); err != nil || changed {
			t.Errorf("the same again: %v, %v", changed, err)
		}
	})
}
