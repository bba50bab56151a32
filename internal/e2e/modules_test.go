//go:build modules

// For kernels that have modules for VLANs and ESP: `make test-kernels` boots some.

package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// With ESP between two hosts no packet of a pod is on the wire in the clear, nor is one accepted, by
// an engine that is live, and back again.
func TestKernelEngineUnderESP(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	m := newWorld(t).startAll(engineFile(t, "kernel", "tcx"))
	known(t, m.w2, "worker")
	known(t, m.w, "worker2")
	policed(t, m.w2, false)
	ends := []*nstest.Host{m.Worker, m.Worker2}
	daemons := []*nstest.Daemon{m.w, m.w2}
	addresses := []string{"172.18.0.4", "172.18.0.3"}
	const keys = " auth 'hmac(sha256)' 0x000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f" +
		" enc 'cbc(aes)' 0x000102030405060708090a0b0c0d0e0f"
	for i, h := range ends {
		me, other, out, in := addresses[i], addresses[1-i], []string{"0x101", "0x102"}[i], []string{"0x102",
			"0x101"}[i]
		for _, line := range []string{
			"state add src " + me + " dst " + other + " proto esp spi " + out + " mode transport" + keys,
			"state add src " + other + " dst " + me + " proto esp spi " + in + " mode transport" + keys,
			"policy add src " + me + " dst " + other + " proto udp dport 8285 dir out tmpl src " + me + " dst " +
				other + " proto esp mode transport",
			"policy add src " + other + " dst " + me + " proto udp dport 8285 dir in tmpl src " + other + " dst " +
				me + " proto esp mode transport",
		} {
			run(t, h.Namespace, "sh", "-c", "ip xfrm "+line)
		}
	}
	for _, d := range daemons {
		policed(t, d, true)
	}
	wire := capture(t, m.Worker2.Namespace, "eth0")
	ping := func() error {
		_, err := m.PodW2b.Run("ping", "-c", "10", "-i", "0.1", "-W", "2", "-p", "cafecafe", "10.244.1.2")
		return err
	}
	if err := ping(); err != nil {
		t.Error(err)
	}
	sealed := 0
	_, err := wire.Next(time.Second, func(b []byte) bool {
		third := []byte{172, 18, 0, 2} // a host without ESP
		if !isIPv4(b) || bytes.Equal(b[14+12:14+16], third) || bytes.Equal(b[14+16:14+20], third) {
			return false
		}
		if b[14+9] == unix.IPPROTO_ESP {
			sealed++
		}
		return bytes.Contains(b, []byte{0xca, 0xfe, 0xca, 0xfe, 0xca, 0xfe}) ||
			b[14+9] == unix.IPPROTO_UDP && binary.BigEndian.Uint16(b[14+20+2:]) == 8285
	})
	if !errors.Is(err, nstest.ErrNoFrame) || sealed < 20 {
		t.Errorf("%d packets as ESP, and one in the clear: %v", sealed, err)
	}

	// One end gives ESP up: what it sends bare is not accepted.
	run(t, m.Worker2.Namespace, "sh", "-c", "ip xfrm policy flush && ip xfrm state flush")
	policed(t, m.w2, false)
	// Of this peer alone: another one's probe of the way that pods' packets take counts as a packet.
	accepted := func() uint64 { return *peer(t, status(t, m.w), "worker2").RxPackets }
	before := accepted()
	if err := ping(); err == nil {
		t.Error("bare packets are answered where the policy demands ESP")
	}
	if now := accepted(); now != before {
		t.Errorf("%d bare packets were accepted where the policy demands ESP", now-before)
	}
	run(t, m.Worker.Namespace, "sh", "-c", "ip xfrm policy flush && ip xfrm state flush")
	policed(t, m.w, false)
	waitStatus(t, m.w2, "worker is up",
		func(s control.Status) bool { return peer(t, s, "worker").State == control.Up })
	if err := ping(); err != nil {
		t.Error(err)
	}
}

// An underlay of tagged frames, by the interface of the VLAN.
func TestKernelEngineOnVLAN(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	for _, receive := range []string{"tcx", "xdp"} {
		w := newWorldMTU(t, 1472)
		doc := strings.ReplaceAll(engineFile(t, "kernel", receive), "\"172.18.0.", "\"172.30.0.")
		for i, h := range w.Hosts() {
			address := []string{"172.30.0.2", "172.30.0.4", "172.30.0.3"}[i]
			if err := h.IP("link add eth0.7 link eth0 type vlan id 7", "addr add "+address+"/24 dev eth0.7",
				"link set eth0.7 up"); err != nil {
				t.Fatal(err)
			}
		}
		m := w.startAll(doc)
		known(t, m.w2, "worker")
		known(t, m.w, "worker2")
		before := status(t, m.w2).Dataplane.Calls
		transfer(t, m.PodW2b, m.PodW, "10.244.1.2:9000", 16<<20)
		transfer(t, m.PodW, m.PodW2b, "10.244.2.3:9000", 16<<20)
		s := status(t, m.w2)
		if n := s.Dataplane.Calls["wire_write"].Packets -
			before["wire_write"].Packets; s.Dataplane.Receive != "tcx" ||
			n > 100 {
			t.Errorf("user space sent %d packets, %+v", n, s.Dataplane)
		}
	}
}
