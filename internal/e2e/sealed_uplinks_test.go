package e2e

import (
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// A node with two addresses is called at the other one when the first falls silent, and at the one that the
// file has after an edit.
func TestSealedUplinks(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	s := newSealed(t)
	s.secondUplink(map[int]*nstest.Host{3: s.Worker2, 4: s.Worker})
	second := strings.NewReplacer(`"172.18.0.4"`, `["172.18.0.4", "2001:db8:99::4"]`,
		`"172.18.0.3"`, `["172.18.0.3", "2001:db8:99::3"]`)
	doc := second.Replace(s.file())
	for _, h := range []*nstest.Host{s.Worker, s.Worker2} {
		s.helper(h)
	}
	w, w2 := s.run(s.Worker, doc), s.run(s.Worker2, doc)
	at := func(d *nstest.Daemon, name, endpoint string) {
		t.Helper()
		waitPeer(t, d, name, "at "+endpoint, func(p control.Peer) bool {
			return p.State == control.Up && p.WireGuard.Endpoint == endpoint
		})
	}
	at(w2, "worker", "172.18.0.4:51820")
	at(w, "worker2", "172.18.0.3:51820")
	out := startTimed(t, s.PodW2b, s.PodW, "10.244.2.3:7000", "10.244.1.2:7000", 500)
	in := startTimed(t, s.PodW, s.PodW2a, "10.244.1.2:7001", "10.244.2.2:7001", 500)
	cut := time.Now()
	run(t, s.Lab.Switch(), dropOnPath("")[0], dropOnPath("")[1:]...)
	at(w2, "worker", "[2001:db8:99::4]:51820")
	at(w, "worker2", "[2001:db8:99::3]:51820")
	s.arrive(out, "the first address fell silent")
	s.arrive(in, "the first address fell silent")
	t.Logf("no packet arrived for %v and %v", out.longest(cut), in.longest(cut))
	run(t, s.Lab.Switch(), healPath[0], healPath[1:]...)
	for _, stream := range []*timed{out, in} {
		stream.finish()
	}

	for _, d := range []*nstest.Daemon{w, w2} {
		save(t, d, s.file())
	}
	at(w2, "worker", "172.18.0.4:51820")
	at(w, "worker2", "172.18.0.3:51820")
	meet(t, podAt{s.PodW2b, "10.244.2.3"}, podAt{s.PodW, "10.244.1.2"})
}

// A peer whose address is a name is called where the name leads by now, also while nothing comes from there:
// WireGuard alone would answer where the peer has called from.
func TestSealedName(t *testing.T) {
	nstest.Share(t, nstest.Busy)
	s := newSealed(t)
	names := &pathRig{world: s.world}
	names.serveNames("172.18.0.4")
	doc := strings.Replace(s.file(), `"172.18.0.4"`, `"worker.test"`, 1)
	for _, h := range []*nstest.Host{s.Worker, s.Worker2} {
		s.helper(h)
	}
	w, w2 := s.run(s.Worker, doc), s.run(s.Worker2, doc) // worker cannot resolve its own name, and has its key
	at := func(endpoint string) control.Peer {
		t.Helper()
		return waitPeer(t, w2, "worker", "at "+endpoint, func(p control.Peer) bool {
			return p.WireGuard.Endpoint == endpoint
		})
	}
	at("172.18.0.4:51820")
	for d, name := range map[*nstest.Daemon]string{w: "worker2", w2: "worker"} {
		waitPeer(t, d, name, "up", isIn(control.Up))
	}
	stream := startTimed(t, s.PodW2b, s.PodW, "10.244.2.3:7000", "10.244.1.2:7000", 500)

	run(t, s.Worker.Namespace, "nft", "add table inet mute; add chain inet mute out "+
		"{ type filter hook output priority 0; }; add rule inet mute out udp dport 51820 drop")
	s.ip(s.Worker, "addr del 172.18.0.4/16 dev eth0")
	s.ip(s.Worker, "addr add 172.18.0.44/16 dev eth0")
	names.names("172.18.0.44")
	if p := at("172.18.0.44:51820"); p.WireGuard.Roamed {
		t.Errorf("the name leads there: %+v", p.WireGuard)
	}
	s.arrive(stream, "its name was followed")
	run(t, s.Worker.Namespace, "nft", "delete", "table", "inet", "mute")
	waitPeer(t, w2, "worker", "up again", isIn(control.Up))
	meet(t, podAt{s.PodW2b, "10.244.2.3"}, podAt{s.PodW, "10.244.1.2"})
	stream.finish()
}
