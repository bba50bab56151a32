//go:build modules

// For kernels that have WireGuard: `make test-kernels` boots some.

package wireguard

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// The kernel ends in each of 200 random states, and so does it with 1,000 peers.
func TestRandomStatesOfKernel(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		if there, err := InKernel(); err != nil || !there {
			t.Errorf("the kernel has WireGuard: %v, %v", there, err)
			return
		}
		if err := n.IP("link add " + testInterface + " type wireguard"); err != nil {
			t.Error(err)
			return
		}
		c := OpenAt(t.TempDir())
		for seed := range uint64(200) {
			s := randomSettings(rand.New(rand.NewPCG(seed, 3)))
			if brings(t, c, s); t.Failed() {
				t.Errorf("seed %d", seed)
				return
			}
		}
		large := Settings{Interface: testInterface, Private: privateKey(200), Port: 51820}
		for n := range 1000 {
			prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)
			large.Peers = append(large.Peers, Peer{Key: mesh.Key{byte(n), byte(n >> 8), 9},
				Allowed: []netip.Prefix{prefix}})
		}
		t.Logf("1,000 peers: %v", brings(t, c, large))
		moved := large.Peers[7].Allowed
		large.Peers[7].Allowed, large.Peers[8].Allowed = nil, append(moved, large.Peers[8].Allowed...)
		t.Logf("one change: %v", brings(t, c, large))
		s, err := Read(c, testInterface)
		if err != nil || s.User || len(s.Peers) != 1000 {
			t.Errorf("%d peers, %v", len(s.Peers), err)
		}
	})
}

// brings sets the interface, and sees whether it is as wanted, and whether a second Set does nothing. It
// returns how long the first one took.
func brings(t *testing.T, c Client, s Settings) time.Duration {
	t.Helper()
	began := time.Now()
	_, err := Set(c, s)
	took := time.Since(began)
	got, readErr := c.Device(testInterface)
	if err = errors.Join(err, readErr); err != nil {
		t.Error(err)
		return took
	}
	again, err := Set(c, s)
	if diff := differs(got, s); diff != "" || err != nil || len(again) > 0 {
		t.Errorf("%s; again: %q, %v", diff, again, err)
	}
	return took
}
