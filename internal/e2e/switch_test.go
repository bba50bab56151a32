package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

var (
	switchRate  = flag.Int("switch-rate", 5000, "packets a second and way in TestLiveSwitch")
	switchPause = flag.Duration("switch-pause", 0, "time between the edits of two hosts in TestLiveSwitch")
)

// live is a mesh of bare packets that goes over to encryption, with streams that must not notice.
type live struct {
	*sealed
	hosts         []*nstest.Host
	all           []*nstest.Daemon
	plain         string // the file before
	keys, encrypt string // the two edits
}

// Who switches when: worker2, worker, control-plane.
const first, second, third = 2, 1, 0

// startLive runs helper and meshd on all hosts, with a file without keys. The hosts drop packets whose
// answers would leave by another interface, as RHEL's do.
func startLive(t *testing.T) *live {
	t.Helper()
	l := &live{sealed: newSealed(t)}
	l.binary, l.hosts = shipped, l.Hosts()
	for _, h := range l.hosts {
		if err := errors.Join(h.Sysctl("ipv4.conf.all.rp_filter", "1"),
			h.Sysctl("ipv4.conf.default.rp_filter", "1")); err != nil {
			t.Fatal(err)
		}
		run(t, h.Namespace, "nft", "add table netdev seen; add counter netdev seen bare; "+
			"add chain netdev seen out { type filter hook egress device eth0 priority 0; }; "+
			"add rule netdev seen out udp sport 8285 counter name bare")
	}
	l.encrypt = onEngine(t, l.file())
	l.keys = strings.Replace(l.encrypt, "transport = \"wireguard\"\n", "", 1)
	for _, line := range strings.SplitAfter(l.keys, "\n") {
		if !strings.HasPrefix(line, "public_key") {
			l.plain += line
		}
	}
	for _, h := range l.hosts {
		l.helper(h)
		l.all = append(l.all, l.run(h, l.plain))
	}
	l.up()
	return l
}

// up waits until each host reaches the others.
func (l *live) up() {
	l.t.Helper()
	for _, d := range l.all {
		waitStatus(l.t, d, "all peers are up", func(s control.Status) bool {
			return !slices.ContainsFunc(s.Peers, func(p control.Peer) bool { return p.State != control.Up })
		})
	}
}

// edit puts a file in force on a host.
func (l *live) edit(host int, doc string) {
	l.t.Helper()
	if err := os.WriteFile(l.all[host].Config, []byte(doc), 0o644); err != nil {
		l.t.Fatal(err)
	}
	if out, code := ask(l.all[host], "reload"); code != 0 {
		l.t.Fatalf("exit %d: %s", code, out)
	}
}

// reversePath checks rp_filter of an interface of a host.
func (l *live) reversePath(host int, device, want string) {
	l.t.Helper()
	key := "net.ipv4.conf." + device + ".rp_filter"
	if got := strings.TrimSpace(run(l.t, l.hosts[host].Namespace, "sysctl", "-n", key)); got != want {
		l.t.Errorf("%s of %s is %s, want %s", key, l.hosts[host].Name, got, want)
	}
}

// leftBare returns how many bare datagrams a host has sent since startLive.
func (l *live) leftBare(host int) (packets int) {
	l.t.Helper()
	out := run(l.t, l.hosts[host].Namespace, "nft", "list", "counter", "netdev", "seen", "bare")
	_, after, _ := strings.Cut(out, "packets ")
	if _, err := fmt.Sscan(after, &packets); err != nil {
		l.t.Fatalf("%v in %q", err, out)
	}
	return packets
}

// are waits until a host tells one state of all its peers.
func (l *live) are(host int, state string) {
	l.t.Helper()
	waitStatus(l.t, l.all[host], "all peers are "+state, func(s control.Status) bool {
		return !slices.ContainsFunc(s.Peers, func(p control.Peer) bool {
			return p.WireGuard == nil || p.WireGuard.State != state || p.State != control.Up
		})
	})
}

// warned returns the peers that a plan of a file warns of, as "kind peer".
func (l *live) warned(host int, doc string) (all []string) {
	l.t.Helper()
	p, err := client(l.t, l.all[host]).Plan(context.Background(), "next.toml", []byte(doc))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, w := range p.Warnings {
		all = append(all, strings.TrimSpace(w.Kind+" "+w.Peer))
	}
	return all
}

// A mesh goes from bare to encrypted packets in two edits, host by host, and nobody notices: no packet is
// lost, and connections live, whoever translates them. A host that has switched sends nothing bare, and takes
// bare packets of the others until they have switched; after a restart, none.
func TestLiveSwitch(t *testing.T) { eachEngine(t, nstest.Loaded, testLiveSwitch) }

func testLiveSwitch(t *testing.T) {
	l := startLive(t)
	if got := l.warned(first, l.encrypt); !slices.Equal(got, []string{"switch_costs"}) {
		t.Errorf("plan of a host that is not prepared warns of %q", got)
	}
	l.reversePath(first, "mesh0", "1")
	rate := *switchRate
	if byKernel { // its queue for a peer holds 1,024 packets, and other hosts have the same CPU
		rate = 2000
	}
	full, sockets := l.overflows(), l.unread() // before the first packet
	streams := []*timed{
		startTimed(t, l.PodW2b, l.PodW, "10.244.2.3:7000", "10.244.1.2:7000", rate),
		startTimed(t, l.PodW, l.PodW2a, "10.244.1.2:7001", "10.244.2.2:7001", rate),
	}
	finish := l.paced(1 << 20)
	alive := l.connect()
	for _, host := range []int{first, second, third} {
		l.edit(host, l.keys)
		time.Sleep(*switchPause)
		alive(fmt.Sprint("the keys on ", host))
	}
	for host := range l.all {
		l.are(host, control.WireGuardReady)
		l.reversePath(host, "mesh0", "2")
		l.reversePath(host, "meshd-wg", "2")
		if got := l.warned(host, l.encrypt); len(got) > 0 {
			t.Errorf("plan of a host whose peers are ready warns of %q", got)
		}
	}
	sealedFull := l.overflowsOf("meshd-wg")
	l.switchAll(streams[1], alive)
	finish()
	alive("all")
	for i, stream := range streams {
		lost, gap, began := stream.finish()
		queues := [3]uint64{l.overflows().since(full)[i], l.overflowsOf("meshd-wg").since(sealedFull)[i],
			l.unread().since(sockets)[i]}
		missed := queues[0] + queues[1] + queues[2]
		t.Logf("stream %d: of %d packets %d were lost; mesh0, meshd-wg and sockets were full for %d; the longest "+
			"time without was %v", i, stream.flow.sent, lost, queues, gap)
		if lost > missed {
			t.Errorf("stream %d lost more than queues did: %s (in seconds); none came for %v from %v on", i,
				stream.holes(), gap, began)
		}
	}
	if engineOf(t) != "xdp" { // what follows is the same as with tcx
		l.strict()
	}
}

// switchAll has one host after the other encrypt, and looks at what leaves each of them, and what it takes.
func (l *live) switchAll(in *timed, alive func(after string)) {
	l.t.Helper()
	var bare [3]int // of each host, when it had switched
	l.edit(first, l.encrypt)
	bare[first] = l.leftBare(first)
	wire := capture(l.t, l.Worker2.Namespace, "eth0")
	l.are(first, control.WireGuardLagging)
	l.are(second, control.WireGuardReady) // its probes go inside the tunnel by now
	alive("the first switch")
	l.arrive(in, "the first switch")
	next(l.t, wire, "a bare datagram of a peer that lags", func(f []byte) bool {
		return fromMeshPort(f, "172.18.0.4")
	})
	if f, err := wire.Next(10*time.Millisecond, func(f []byte) bool {
		return fromMeshPort(f, "172.18.0.3")
	}); err == nil {
		l.t.Errorf("a datagram left bare after the switch: %x", f)
	}
	wire.Close()
	time.Sleep(*switchPause)
	lies := 0
	for _, host := range []int{second, third} {
		l.edit(host, l.encrypt)
		bare[host] = l.leftBare(host)
		time.Sleep(*switchPause)
		alive(fmt.Sprint("the switch of ", host))
		if host == second {
			lies = l.forged()
		}
	}
	for host := range l.all {
		l.are(host, control.WireGuardSealed)
	}
	for host, was := range bare {
		if n := l.leftBare(host); n > was {
			l.t.Errorf("%d datagrams left %s bare after its switch", n-was, l.hosts[host].Name)
		}
	}
	if n := status(l.t, l.all[first]).Totals.Drops["cleartext"]; n != uint64(lies) {
		l.t.Errorf("%d bare packets were dropped, and %d were lies", n, lies)
	}
}

// strict has a host go back to bare packets, and looks that another one takes none of them: neither after it
// has switched before, nor after a restart during a switch.
func (l *live) strict() {
	l.t.Helper()
	refuses := func(when string) {
		l.t.Helper()
		before := status(l.t, l.all[first]).Totals.Drops["cleartext"]
		ping := l.PodW.Command("ping", "-c", "3", "-i", "0.01", "-W", "1", "10.244.2.3")
		if out, err := ping.CombinedOutput(); err == nil {
			l.t.Errorf("bare pings pass %s: %s", when, out)
		}
		if n := status(l.t, l.all[first]).Totals.Drops["cleartext"]; n < before+3 {
			l.t.Errorf("%d bare packets were dropped %s", n-before, when)
		}
	}
	if got := l.warned(second, l.keys); !slices.Equal(got, []string{"switch_costs"}) {
		l.t.Errorf("plan of the way back warns of %q", got)
	}
	l.edit(second, l.keys)
	refuses("after the way back")

	for host := range l.all {
		l.edit(host, l.keys)
	}
	l.up()
	for host := range l.all {
		l.are(host, control.WireGuardReady)
	}
	l.heard(first)
	l.edit(first, l.encrypt)
	l.are(first, control.WireGuardLagging)
	l.restart(first)
	refuses("after a restart during the switch")
	l.edit(second, l.plain)
	l.reversePath(second, "mesh0", "1")
}

// heard waits until all peers of a host have said how they send: those that have just gone back count as
// sealed until then.
func (l *live) heard(host int) {
	l.t.Helper()
	before := status(l.t, l.all[host])
	waitStatus(l.t, l.all[host], "all peers have answered", func(s control.Status) bool {
		return !slices.ContainsFunc(s.Peers, func(p control.Peer) bool {
			return p.ProbesRx < peer(l.t, before, p.Name).ProbesRx+3
		})
	})
}

// restart replaces a daemon that has switched while others lag: by its successor, or by the next one after it
// was killed.
func (l *live) restart(host int) {
	l.t.Helper()
	d := l.all[host]
	if engineOf(l.t) != "user" {
		d.Kill()
		l.all[host] = l.sealed.run(l.hosts[host], l.encrypt)
		return
	}
	boot := status(l.t, d).BootID
	if err := syscall.Kill(d.PID(), syscall.SIGUSR2); err != nil {
		l.t.Fatal(err)
	}
	c := client(l.t, d)
	eventually(l.t, "another program runs", func() bool {
		s, err := c.Status(context.Background())
		return err == nil && s.BootID != boot && s.WireGuard != nil && len(s.Peers) == 2
	}, d.Log)
}

// fromMeshPort tells whether a frame is a datagram of the bare wire that a host has sent.
func fromMeshPort(f []byte, host string) bool {
	const ethernet = 14
	if len(f) < ethernet+28 || binary.BigEndian.Uint16(f[12:]) != 0x0800 || f[ethernet+9] != 17 {
		return false
	}
	header := int(f[ethernet]&15) * 4
	return net.IP(f[ethernet+12:ethernet+16]).String() == host && len(f) >= ethernet+header+4 &&
		binary.BigEndian.Uint16(f[ethernet+header+2:]) == 8285
}
