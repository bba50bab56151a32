package link

import (
	"errors"
	"slices"
	"testing"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/nstest"
)

func TestTakeDown(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		for _, name := range []string{"mesh0", "mesh1", "mesh2", "mesh3"} {
			must(t, tun.Create(name))
			must(t, Claim(name))
		}
		must(t, n.IP("tuntap add foreign mode tun", "link add plain type bridge"))
		must(t, set(Settings{Interface: "mesh0", MTU: 1472, Addresses: addrs("10.244.2.0"),
			Routes: RoutesTo(prefixes("10.244.0.0/16")...)}))
		err := CheckRoutes("mesh9", prefixes("10.244.0.0/16"))
		if !errors.Is(err, ErrEarlier) {
			t.Errorf("CheckRoutes beside an earlier run: %v", err)
		}
		for _, name := range []string{"mesh2", "mesh3"} {
			q, err := tun.Open(name, true)
			must(t, err)
			defer q.Close()
		}
		// mesh1 has the name that stays, mesh2 is open here, mesh3 is another meshd's.
		removed, err := TakeDown([]string{"mesh1"}, []string{"mesh2"})
		if err != nil || !slices.Equal(removed, []string{"mesh0", "mesh2"}) {
			t.Errorf("TakeDown: %q, %v", removed, err)
		}
		for name, want := range map[string]bool{"mesh0": false, "mesh1": true, "mesh2": false, "mesh3": true,
			"foreign": true, "plain": true} {
			if Exists(name) != want {
				t.Errorf("%s is there: %v", name, !want)
			}
		}
		must(t, CheckRoutes("mesh9", prefixes("10.244.0.0/16")))
	})
}

func TestVacate(t *testing.T) {
	const idle = "tuntap add mesh0 mode tun"
	for name, test := range map[string]struct {
		made []string // by ip(8)
		want error    // nil: it is removed
	}{
		"idle":             {[]string{idle}, nil},
		"idle and up":      {[]string{idle, "link set mesh0 up"}, nil},
		"several queues":   {[]string{idle + " multi_queue", "link set mesh0 up"}, nil},
		"another alias":    {[]string{idle, "link set mesh0 alias vpn"}, nil},
		"for a user":       {[]string{idle + " user 1000"}, ErrForeign},
		"for a group":      {[]string{idle + " group 1000"}, ErrForeign},
		"with an address":  {[]string{idle, "addr add 192.0.2.1/32 dev mesh0"}, ErrForeign},
		"with a route":     {[]string{idle, "link set mesh0 up", "route add 192.0.2.0/24 dev mesh0"}, ErrForeign},
		"with an IPv6 one": {[]string{idle, "link set mesh0 up", "route add 2001:db8::/64 dev mesh0"}, ErrForeign},
		"of another table": {[]string{idle, "link set mesh0 up", "route add 192.0.2.0/24 dev mesh0 table 9"},
			ErrForeign},
		"a TAP":             {[]string{"tuntap add mesh0 mode tap"}, ErrForeign},
		"a bridge":          {[]string{"link add mesh0 type bridge"}, ErrForeign},
		"a bridge of meshd": {[]string{"link add mesh0 type bridge", "link set mesh0 alias meshd"}, ErrForeign},
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				if removed, err := Vacate("mesh0"); removed || err != nil {
					t.Errorf("without an interface: %v, %v", removed, err)
				}
				must(t, n.IP(test.made...))
				removed, err := Vacate("mesh0")
				if !errors.Is(err, test.want) || removed != (test.want == nil) || Exists("mesh0") == removed {
					t.Errorf("Vacate: %v, %v, want %v", removed, err, test.want)
				}
			})
		})
	}
}

// A queue that is open, even one that is detached for the moment, has a user.
func TestVacateLeavesWhatIsOpen(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		must(t, tun.Create("mesh0"))
		q, err := tun.Open("mesh0", true)
		must(t, err)
		if removed, err := Vacate("mesh0"); removed || !errors.Is(err, ErrForeign) {
			t.Errorf("a foreign one: %v, %v", removed, err)
		}
		must(t, Claim("mesh0"))
		if removed, err := Vacate("mesh0"); removed || !errors.Is(err, ErrInUse) {
			t.Errorf("one of meshd's: %v, %v", removed, err)
		}
		must(t, q.Close())
		if removed, err := Vacate("mesh0"); removed || err != nil {
			t.Errorf("an idle one of meshd's: %v, %v", removed, err)
		}
	})
}
