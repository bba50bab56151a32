//go:build modules

// For kernels that have WireGuard: `make test-kernels` boots some.

package seal

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/wireguard"
)

// many is a mesh of this node and n others, which call in.
func many(n int, self mesh.Key) *Wanted {
	w := &Wanted{Self: mesh.Peer{Name: "self", Subnets: prefixes("10.0.0.0/24"), Key: self}, TUN: "mesh0",
		Port: 51820, MTU: 1440}
	for i := range n {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(1 + i>>8), byte(i), 0}), 24)
		w.Peers = append(w.Peers, Peer{Peer: mesh.Peer{Name: fmt.Sprintf("node-%d", i),
			Key: mesh.Key{byte(i), byte(i >> 8), 9}, Subnets: []netip.Prefix{subnet}}})
	}
	return w
}

// cost runs f and returns how long it took, and how much of that it had a CPU.
func cost(f func()) string {
	used := func() (u unix.Rusage) {
		_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
		return u
	}
	was, began := used(), time.Now()
	f()
	took, is := time.Since(began), used()
	cpu := time.Duration(is.Utime.Nano() + is.Stime.Nano() - was.Utime.Nano() - was.Stime.Nano())
	return fmt.Sprintf("%v, %v of a CPU", took.Round(10*time.Microsecond), cpu.Round(10*time.Microsecond))
}

// A thousand peers have their keys and routes; one that comes, goes, or has a narrow path is one change.
func TestThousandPeers(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	const n = 1000
	nstest.Inside(t, func(t *testing.T, space *nstest.Namespace) {
		if err := space.IP("link set lo up"); err != nil {
			t.Error(err)
			return
		}
		private := wireguard.PrivateOf([32]byte{7})
		k := newKeeper(Options{Log: slog.New(slog.DiscardHandler),
			Guard: func(context.Context) bool { return true },
			Fails: func(string) bool { return false },
			Key:   func(context.Context, string) (wireguard.Private, error) { return private, nil }})
		k.brought = func() {}
		w := many(n, private.Public())
		for _, step := range []struct {
			name          string
			do            func()
			peers, routes int
		}{
			{"bring", func() { k.wanted = w; k.bring(t.Context(), time.Now()) }, n, n},
			{"bring, when nothing has changed", func() { k.bring(t.Context(), time.Now()) }, n, n},
			{"look", func() { k.look(t.Context(), time.Now()) }, n, n},
			{"one path is narrow", func() {
				k.learn("node-7", peers.Directive{MTU: 1300})
				k.bring(t.Context(), time.Now())
			}, n, n},
			{"one goes", func() { k.wanted = many(n-1, w.Self.Key); k.bring(t.Context(), time.Now()) }, n - 1, n - 1},
			{"one comes", func() { k.wanted = w; k.bring(t.Context(), time.Now()) }, n, n},
			{"it goes", func() { k.wanted = nil; k.bring(t.Context(), time.Now()) }, 0, 0},
		} {
			t.Logf("%s: %s", step.name, cost(step.do))
			if c := k.conditions(); len(c) > 0 {
				t.Errorf("after %s: %+v", step.name, c)
			}
			routes, _ := space.Run("sh", "-c", "ip route show dev meshd-wg proto 85 2>/dev/null | wc -l")
			if told := len(k.Told().Peers); told != step.peers || routes != fmt.Sprintf("%d\n", step.routes) {
				t.Errorf("after %s: %d peers, %s routes, want %d, %d", step.name, told, routes, step.peers, step.routes)
			}
		}
		if link.Exists(wireguard.Interface) {
			t.Error("the interface is still there")
		}
	})
}

// The service may not load modules, and the kernel loads WireGuard for it: by rtnl_newlink, which asks for
// "rtnl-link-wireguard".
func TestServiceLoadsModule(t *testing.T) {
	const inside, module = "MESH_AS_SERVICE", "/sys/module/wireguard"
	if os.Getenv(inside) != "" {
		made, err := link.MakeEncrypted(wireguard.Interface)
		if !made || err != nil {
			t.Fatalf("%v, %v", made, err)
		}
		client, err := wireguard.Open()
		if err != nil {
			t.Fatal(err)
		}
		if s, err := wireguard.Read(client, wireguard.Interface); err != nil || s.User {
			t.Errorf("%+v, %v", s, err)
		}
		return
	}
	n := nstest.ForTest(t)
	if out, err := exec.Command("modprobe", "-r", "wireguard").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := os.Stat(module); err == nil {
		t.Fatal("the module is loaded before")
	}
	out, err := n.Run("setpriv", "--bounding-set", "-all,+net_admin,+bpf", "env", inside+"=1", os.Args[0],
		"-test.run", "^TestServiceLoadsModule$")
	if _, statErr := os.Stat(module); err != nil || statErr != nil {
		t.Errorf("%v, %v: %s", err, statErr, out)
	}
}
