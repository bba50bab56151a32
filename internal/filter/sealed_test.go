package filter

import (
	"net/netip"
	"testing"
)

// While packets must leave encrypted, those to a subnet of another node are stopped where another program's
// route would have them leave bare, forwarded ones and this host's own, and counted. What leaves by meshd's
// interfaces passes, and what is for others.
func TestSealedLeavesByOwnInterfaces(t *testing.T) {
	router, left, right := routed(t)
	for _, test := range []struct {
		name, tun string // what leads to the right side
		sealed    []string
		pass      bool
	}{
		{"another interface", "mesh0", []string{"10.8.0.0/16", "10.9.2.2/32", "fd09:2::2/128"}, false},
		{"meshd's interface", "right", []string{"10.8.0.0/16", "10.9.2.2/32", "fd09:2::2/128"}, true},
		{"nothing is sealed", "mesh0", nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			g, got := NewGuard(), listen(t, right, netip.MustParseAddrPort("[::]:9000"))
			in := func(do func() error) {
				t.Helper()
				if err := router.Do(do); err != nil {
					t.Fatal(err)
				}
			}
			in(func() error {
				_, err := g.Set(GuardSettings{TUN: test.tun, Mark: testMark, Sealed: prefixes(test.sealed...)})
				return err
			})
			stopped := uint64(0)
			for _, way := range [][3]string{{"10.9.1.2", "10.9.2.2", "10.9.2.3"},
				{"fd09:1::2", "fd09:2::2", "fd09:2::3"}} {
				from, to, other := way[0], netip.MustParseAddr(way[1]), netip.MustParseAddr(way[2])
				say(t, left, from, netip.AddrPortFrom(to, 9000), "tried")
				say(t, left, from, netip.AddrPortFrom(other, 9000), "last") // arrives in any case
				first := next(t, got)
				if (first == "tried") != test.pass {
					t.Errorf("to %s: %q arrived first", to, first)
				}
				if first == "tried" && next(t, got) != "last" {
					t.Errorf("to %s: the last one is missing", other)
				}
				out, err := router.Run("ping", "-c", "1", "-W", "1", to.String())
				if (err == nil) != test.pass {
					t.Errorf("the host's own packet to %s: %v\n%s", to, err, out)
				}
				if !test.pass {
					stopped += 2
				}
				in(func() error {
					if _, bare, err := g.Drops(); err != nil || bare != stopped {
						t.Errorf("%d were stopped, %v, want %d", bare, err, stopped)
					}
					return nil
				})
			}
		})
	}
}
