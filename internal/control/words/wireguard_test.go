package words

import (
	"testing"
	"time"

	"example.org/meshd/internal/control"
)

// How a peer's packets are kept secret, in one line.
func TestEncrypted(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	called := func(w control.PeerWireGuard) control.PeerWireGuard {
		w.PublicKey, w.RxBytes, w.TxBytes, w.LatestHandshake = "K=", 1200, 7, new(now.Add(-2*time.Minute))
		return w
	}
	for _, test := range []struct {
		name string
		peer control.PeerWireGuard
		want string
	}{
		{"at its address", called(control.PeerWireGuard{Endpoint: "192.0.2.1:51820", Path: "direct"}),
			"handshake 2m00 ago  at 192.0.2.1:51820  rx 1.2 kB  tx 7 B  key K="},
		{"roamed", called(control.PeerWireGuard{Endpoint: "192.0.2.9:4", Roamed: true, Path: "direct"}),
			"handshake 2m00 ago  at 192.0.2.9:4, which is not in the file  rx 1.2 kB  tx 7 B  key K="},
		{"by another node", called(control.PeerWireGuard{Path: "via hub-1"}),
			"handshake 2m00 ago  via hub-1  rx 1.2 kB  tx 7 B  key K="},
		{"ready", called(control.PeerWireGuard{Endpoint: "192.0.2.1:51820", Path: "direct", State: "ready"}),
			"no, ready  handshake 2m00 ago  at 192.0.2.1:51820  rx 1.2 kB  tx 7 B  key K="},
		{"not ready", control.PeerWireGuard{PublicKey: "K=", Endpoint: "192.0.2.1:51820", Path: "direct",
			State: "waiting"}, "no, not ready  no handshake yet  at 192.0.2.1:51820  rx 0 B  tx 0 B  key K="},
		{"lagging", called(control.PeerWireGuard{Endpoint: "192.0.2.1:51820", Path: "direct", State: "lagging"}),
			"from here, and it still sends in the clear  handshake 2m00 ago  at 192.0.2.1:51820  rx 1.2 kB  " +
				"tx 7 B  key K="},
		{"never", control.PeerWireGuard{PublicKey: "K=", Path: "direct"},
			"no handshake yet  it has not called yet  rx 0 B  tx 0 B  key K="},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Encrypted(control.Peer{WireGuard: &test.peer}, now); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
	if got := Encrypted(control.Peer{}, now); got != "no" {
		t.Errorf("without WireGuard: %q", got)
	}
}

// Bytes of messages stand for traffic while nothing counts packets.
func TestTraffic(t *testing.T) {
	n := func(v uint64) *uint64 { return &v }
	counted := control.Status{Totals: control.Totals{RxPackets: n(1), RxBytes: n(2000),
		TxPackets: n(3), TxBytes: n(4)}}
	if got, want := Traffic(counted), "rx 1 packets, 2.0 kB  tx 3 packets, 4 B"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	sealed := control.Status{Peers: []control.Peer{
		{WireGuard: &control.PeerWireGuard{RxBytes: 1, TxBytes: 2}}, {},
		{WireGuard: &control.PeerWireGuard{RxBytes: 10, TxBytes: 20}}}}
	if got, want := Traffic(sealed), "rx 11 B  tx 22 B, encrypted"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestWireGuard(t *testing.T) {
	w := control.WireGuard{Interface: "meshd-wg", MTU: 1440, Port: 51820, PublicKey: "K="}
	whose := map[string]string{"kernel": "kernel", "user": "user space", "": "none: nothing leaves"}
	for by, want := range whose {
		w.Implementation = by
		if got, want := WireGuard(w), want+"  meshd-wg mtu 1440  UDP 51820  key K="; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	w.State = control.WireGuardPrepared
	for by, want := range map[string]string{"kernel": "kernel", "": "none"} {
		w.Implementation = by
		want = "prepared, packets leave in the clear  " + want + "  meshd-wg mtu 1440  UDP 51820  key K="
		if got := WireGuard(w); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A session is of use for three minutes.
func TestInSession(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for age, want := range map[time.Duration]bool{0: true, 179 * time.Second: true, 180 * time.Second: false} {
		w := control.PeerWireGuard{LatestHandshake: new(now.Add(-age))}
		if got := w.InSession(now); got != want {
			t.Errorf("after %v: %v", age, got)
		}
	}
	if (&control.PeerWireGuard{}).InSession(now) {
		t.Error("without a handshake there is a session")
	}
}
