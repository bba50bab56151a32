package device

import (
	"errors"
	"log/slog"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/nstest"
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
		if err := d.ClearWay("mesh1", func() error { return foreign }); err != foreign || !link.Exists("mesh0") {
			t.Errorf("ClearWay: %v, mesh0 is there: %v", err, link.Exists("mesh0"))
		}
		looks := 0
		fits := func() error { // as long as mesh0 is there
			if looks++; link.Exists("mesh0") {
				return &link.RouteError{Ours: true}
			}
			return nil
		}
		if err := d.ClearWay("mesh1", fits); err != nil || looks != 2 || link.Exists("mesh0") {
			t.Errorf("ClearWay: %v after %d looks, mesh0 is there: %v", err, looks, link.Exists("mesh0"))
		}
		if err := d.ClearWay("mesh1", func() error { return &link.RouteError{Ours: true} }); !errors.Is(err,
			link.ErrEarlier) {
			t.Errorf("a route of a meshd that runs: %v", err)
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
