package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// live is a mesh of bare packets that goes over to encryption, with streams that must not notice.
type live struct {
	*sealed
	hosts         []*nstest.Host
	all           []*nstest.Daemon
	plain         string // the file before
	keys, encrypt string // the two edits
}

// startLive runs helper and meshd on all hosts, with a file without keys.
func startLive(t *testing.T) *live {
	t.Helper()
	l := &live{sealed: newSealed(t)}
	l.binary, l.hosts = shipped, l.Hosts()
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

// masqueraded opens a connection from a host's own address to a pod, which sees that of the TUN.
func (l *live) masqueraded(from *nstest.Host, source string, to *nstest.Namespace, address string) *stream {
	l.t.Helper()
	listener, s := listenTCP(l.t.(*testing.T), to, address), &stream{}
	err := from.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: dialPatience}
		s.Conn, err = d.Dial("tcp", address)
		return err
	})
	if err == nil {
		s.server, err = listener.Accept()
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { s.Close() })
	return s
}

// A mesh goes from bare to encrypted packets in two edits, host by host, and nobody notices: no packet is
// lost, and connections live. A host that has switched sends nothing bare, and takes bare packets of the
// others until they have switched; after a restart, none.
func TestLiveSwitch(t *testing.T) { eachEngine(t, nstest.Loaded, testLiveSwitch) }

func testLiveSwitch(t *testing.T) {
	if engineOf(t) == "xdp" {
		return // the same programs as tcx, at another place
	}
	l := startLive(t)
	const first, second, third = 2, 1, 0 // who switches when: worker2, worker, control-plane
	if got := l.warned(first, l.encrypt); !slices.Equal(got, []string{"switch_costs"}) {
		t.Errorf("plan of a host that is not prepared warns of %q", got)
	}
	out := startTimed(t, l.PodW2b, l.PodW, "10.244.2.3:7000", "10.244.1.2:7000", 5000)
	in := startTimed(t, l.PodW, l.PodW2a, "10.244.1.2:7001", "10.244.2.2:7001", 5000)
	full := l.overflows()
	finish := startDownload(t, l.PodW2b, l.PodW, "10.244.1.2:7002")
	open := l.masqueraded(l.Worker2, "172.18.0.3", l.PodW, "10.244.1.2:7003")
	alive := func(after string) {
		t.Helper()
		if err := open.echo(after); err != nil {
			t.Errorf("the masqueraded connection after %s: %v", after, err)
		}
	}
	for _, host := range []int{first, second, third} {
		l.edit(host, l.keys)
		alive(fmt.Sprint("the keys on ", host))
	}
	for host := range l.all {
		l.are(host, control.WireGuardReady)
		if got := l.warned(host, l.encrypt); len(got) > 0 {
			t.Errorf("plan of a host whose peers are ready warns of %q", got)
		}
	}
	sealedFull := l.overflowsOf("meshd-wg")

	l.edit(first, l.encrypt)
	bare := capture(t, l.Worker2.Namespace, "eth0")
	l.are(first, control.WireGuardLagging)
	l.are(second, control.WireGuardReady) // its probes go inside the tunnel by now
	alive("the first switch")
	l.arrive(in, "the first switch")
	for _, host := range []int{second, third} {
		l.edit(host, l.encrypt)
		alive(fmt.Sprint("the switch of ", host))
	}
	for host := range l.all {
		l.are(host, control.WireGuardSealed)
	}
	own := func(f []byte) bool { return fromMeshPort(f, "172.18.0.3") }
	if f, err := bare.Next(10*time.Millisecond, own); err == nil {
		t.Errorf("a datagram left bare after the switch: %x", f)
	}
	finish()
	alive("all")
	if n := status(t, l.all[first]).Totals.Drops["cleartext"]; n > 0 {
		t.Errorf("%d bare packets were dropped", n)
	}
	for i, stream := range []*timed{out, in} {
		lost, gap, began := stream.finish()
		if missed := l.overflows().since(full)[i] + l.overflowsOf("meshd-wg").since(sealedFull)[i]; lost > missed {
			t.Errorf("stream %d: %d of %d packets were lost, %d found a full queue; none came for %v from %v on",
				i, lost, stream.flow.sent, missed, gap, began)
		}
	}
	l.strict(first, second)
}

// strict has a host go back to bare packets, and looks that another one takes none of them: neither after it
// has switched before, nor after a restart during a switch.
func (l *live) strict(first, second int) {
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
	l.edit(first, l.encrypt)
	l.are(first, control.WireGuardLagging)
	if _, err := l.all[first].Stop(); err != nil {
		l.t.Fatal(err)
	}
	l.all[first] = l.sealed.run(l.hosts[first], l.encrypt)
	refuses("after a restart during the switch")
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
