package device

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/wireguard"
)

func device() *Device { return New(slog.New(slog.DiscardHandler)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// file returns a copy of a queue's descriptor, as a service manager holds it.
func file(t *testing.T, q *tun.Queue) (copied *os.File) {
	t.Helper()
	must(t, q.Descriptor(func(fd uintptr) {
		other, err := unix.Dup(int(fd))
		must(t, err)
		copied = os.NewFile(uintptr(other), "tun-0")
	}))
	t.Cleanup(func() { copied.Close() })
	return copied
}

func TestClearWay(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		d, earlier := device(), device()
		_, _, err := earlier.Make("mesh0")
		must(t, err)
		q, err := tun.Open("mesh0", true)
		must(t, err)
		d.Inherit([]*os.File{file(t, q)})
		must(t, q.Close()) // the copy holds the device

		foreign := errors.New("a route of another program")
		err = d.ClearWay("mesh1", false, func() error { return foreign })
		if err != foreign || !link.Exists("mesh0") {
			t.Errorf("ClearWay: %v, mesh0 is there: %v", err, link.Exists("mesh0"))
		}
		looks := 0
		fits := func() error { // as long as mesh0 is there
			if looks++; link.Exists("mesh0") {
				return &link.RouteError{Ours: true}
			}
			return nil
		}
		if err := d.ClearWay("mesh1", false, fits); err != nil || looks != 2 || link.Exists("mesh0") {
			t.Errorf("ClearWay: %v after %d looks, mesh0 is there: %v", err, looks, link.Exists("mesh0"))
		}
		if err := d.ClearWay("mesh1", false, func() error { return &link.RouteError{Ours: true} }); !errors.Is(err,
			link.ErrEarlier) {
			t.Errorf("a route of a meshd that runs: %v", err)
		}
	})
}

// The encrypted interface stays while the mesh is sealed, and leads nothing away once it is not.
func TestClearWayOfTheEncrypted(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		prefixes := []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}
		s := link.Settings{Interface: wireguard.Interface, Kind: link.Encrypted, MTU: 1408,
			Routes: link.RoutesTo(prefixes...)}
		fits := func() error { return link.CheckRoutes("mesh0", prefixes) }
		for _, test := range []struct {
			name           string
			helper, sealed bool
			exists         bool // afterwards
			fits           bool
		}{
			{"sealed", false, true, true, false},
			{"sealed, with a helper", true, true, true, false},
			{"bare", false, false, false, true},
			{"bare, with a helper", true, false, true, true},
		} {
			must(t, tun.Create(wireguard.Interface, link.Claim))
			if _, err := link.Set(s); err != nil {
				t.Fatal(err)
			}
			var q *tun.Queue
			if test.helper {
				var err error
				q, err = tun.Open(wireguard.Interface, true)
				must(t, err)
			}
			err := device().ClearWay("mesh0", test.sealed, fits)
			if (err == nil) != test.fits || link.Exists(wireguard.Interface) != test.exists {
				t.Errorf("%s: %v, and the interface is there: %v", test.name, err, link.Exists(wireguard.Interface))
			}
			if up := link.Up(wireguard.Interface); up != test.sealed {
				t.Errorf("%s: it is up: %v", test.name, up)
			}
			if test.helper {
				must(t, q.Close())
			}
		}
	})
}

func TestMake(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		d := device()
		changes, undo, err := d.Make("mesh0")
		if err != nil || changes != nil || !link.Exists("mesh0") {
			t.Fatalf("Make: %v, %v", changes, err)
		}
		must(t, undo())
		if link.Exists("mesh0") {
			t.Error("undo left the TUN")
		}
		must(t, n.IP("tuntap add mesh0 mode tun"))
		_, _, err = d.Make("mesh0")
		must(t, err)
		if changes, undo, err := d.Make("mesh0"); changes != nil || undo != nil || err != nil {
			t.Errorf("a second Make: %v, %v", changes, err)
		}
		index := link.Index("mesh0")
		must(t, n.IP("link set mesh0 name mesh9", "tuntap add mesh0 mode tun"))
		changes, undo, err = d.Make("mesh0")
		if err != nil || len(changes) != 1 || changes[0].Old != "mesh9" || undo != nil {
			t.Errorf("Make of one that was renamed: %v, %v", changes, err)
		}
		if link.Index("mesh0") != index || link.Exists("mesh9") {
			t.Errorf("it has index %d, not %d", link.Index("mesh0"), index)
		}
		must(t, n.IP("link del mesh0"))
		changes, undo, err = d.Make("mesh0")
		if err != nil || len(changes) != 1 || changes[0].Subject != "mesh0" {
			t.Fatalf("Make of one that was deleted: %v, %v", changes, err)
		}
		must(t, undo())
		if !link.Exists("mesh0") {
			t.Error("undo removed a TUN that is in use")
		}
	})
}

// A TUN that is taken away counts once, whether or not what came after Make has worked.
func TestTaken(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		d := device()
		taken := func(when string, want int) {
			t.Helper()
			if got := d.Taken(); got != want {
				t.Errorf("%s: taken %d times, want %d", when, got, want)
			}
		}
		build := func() (undo func() error) {
			t.Helper()
			_, undo, err := d.Make("mesh0")
			must(t, err)
			return undo
		}
		must(t, build()())
		build()
		taken("undone by ourselves", 0)
		for i := range 3 {
			must(t, n.IP("link del mesh0"))
			must(t, build()()) // something else fails, and nobody takes the TUN
			must(t, build()())
			taken("deleted", i+1)
		}
		must(t, n.IP("link del mesh0", "tuntap add mesh0 mode tun"))
		build()
		taken("another one in its place", 4)
		must(t, n.IP("link set mesh0 name mesh9"))
		build()
		taken("renamed", 5)
		build()
		taken("and nothing more", 5)

		// While a bridge has the name, no TUN of ours is taken away.
		must(t, n.IP("link del mesh0", "link add mesh0 type bridge"))
		for range 2 {
			if _, _, err := d.Make("mesh0"); err == nil {
				t.Error("a bridge was taken for a TUN")
			}
		}
		taken("a bridge in its place", 6)
	})
}

// What the service manager still holds for this daemon is not another meshd.
func TestMakeOfOneThatIsHeld(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		_, _, err := device().Make("mesh0")
		must(t, err)
		q, err := tun.Open("mesh0", true)
		must(t, err)
		defer q.Close()
		d := device()
		if _, _, err := d.Make("mesh0"); !errors.Is(err, link.ErrInUse) {
			t.Errorf("of another meshd: %v", err)
		}
		left := file(t, q)
		if got := tun.Held([]*os.File{left, os.Stdin, left}); !slices.Equal(got, []string{"mesh0"}) {
			t.Errorf("Held: %q", got)
		}
		d.Inherit([]*os.File{left})
		if _, _, err := d.Make("mesh0"); err != nil {
			t.Errorf("of the service manager: %v", err)
		}
	})
}
