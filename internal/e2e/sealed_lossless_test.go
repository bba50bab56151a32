package e2e

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

var (
	sealedReloads = flag.Int("sealed-reloads", 50, "how many reloads TestSealedLossless makes")
	sealedRate    = flag.Int("sealed-rate", 2000, "packets a second and way in TestSealedLossless")
)

// Restarts, kills, upgrades and reloads of meshd cost no packet: sessions live elsewhere.
func TestSealedLossless(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	s := newSealed(t)
	s.binary = shipped
	doc := s.file()
	all := s.runAll(doc)
	d := all[2]
	rate := *sealedRate
	full, sockets, late := s.overflowsOf("meshd-wg"), s.unread(), backlog(t) // before the first packet
	out := startTimed(t, s.PodW2b, s.PodW, "10.244.2.3:7000", "10.244.1.2:7000", rate)
	in := startTimed(t, s.PodW, s.PodW2a, "10.244.1.2:7001", "10.244.2.2:7001", rate)
	before := lasting(t, d)
	d.Kill()
	d = s.run(s.Worker2, doc)
	if _, err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	d = s.run(s.Worker2, doc)
	s.upgrade(d)
	s.reloads(d, doc, *sealedReloads)
	waitStatus(t, d, "peers are up", func(st control.Status) bool {
		return peer(t, st, "worker").State == control.Up
	})
	if after := handshake(t, d); !after.Equal(before) && after.Sub(before) < rekeyAfter {
		t.Errorf("the session of %v is one of %v now", before, after)
	}
	h := s.helpers[s.Worker2]
	if h != nil && (h.State() != "running" || len(h.Events("wireguard_started")) != 1) {
		t.Errorf("the process in user space: %s\n%s", h.State(), h.Log())
	}
	s.remembered(d)
	for i, stream := range []*timed{out, in} {
		lost, gap, began := stream.finish()
		t.Logf("stream %d: %d packets, %d lost, the longest gap was %v", i, stream.flow.sent, lost, gap)
		// A process that gets no CPU for a while leaves what no queue holds, and then sends it all at once. The
		// kernel has 1,024 packets of a peer wait for a thread that encrypts, which is scheduled as processes
		// are; what comes while they wait is freed, and not counted (wg_packet_create_data in
		// drivers/net/wireguard/send.c). In the trial of kernels nothing else takes that thread's CPU.
		missed := s.overflowsOf("meshd-wg").since(full)[i] + s.unread().since(sockets)[i] + backlog(t) - late
		if lost > missed {
			t.Errorf("stream %d: %d of %d packets were lost, %d found a full queue; none came for %v from %v on; "+
				"lost: %s\n%s", i, lost, stream.flow.sent, missed, gap, began, stream.holes(), s.places(d, all[1]))
		}
	}
}

// backlog returns how many packets this machine has dropped because a CPU had too many to receive: behind
// every veth and TUN there is a queue (net.core.netdev_max_backlog).
func backlog(t *testing.T) (dropped uint64) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/softnet_stat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) { // one for each CPU
		n, err := strconv.ParseUint(strings.Fields(line)[1], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		dropped += n
	}
	return dropped
}

// upgrade has the program take over from itself, as after the installation of another one.
func (s *sealed) upgrade(d *nstest.Daemon) {
	s.t.Helper()
	boot := status(s.t, d).BootID
	if err := syscall.Kill(d.PID(), syscall.SIGUSR2); err != nil {
		s.t.Fatal(err)
	}
	c := client(s.t, d)
	eventually(s.t, "the next program answers", func() bool {
		st, err := c.Status(s.t.Context()) // it does not answer for a moment
		return err == nil && st.BootID != boot && st.WireGuard != nil && st.WireGuard.Implementation != ""
	}, d.Log)
}

// remembered sees that the history has bytes of messages, and knows of no packets.
func (s *sealed) remembered(d *nstest.Daemon) {
	s.t.Helper()
	for _, name := range []string{"", "worker"} {
		h, err := client(s.t, d).History(s.t.Context(), name, "5m")
		if err != nil {
			s.t.Fatal(err)
		}
		known := func(v *float64) bool { return v != nil }
		some := func(v *float64) bool { return v != nil && *v > 0 }
		if slices.ContainsFunc(h.RxPackets, known) || slices.ContainsFunc(h.TxPackets, known) ||
			!slices.ContainsFunc(h.RxBytes, some) || !slices.ContainsFunc(h.TxBytes, some) {
			s.t.Errorf("the history of %q: %+v", name, h)
		}
	}
}

// others are nodes of which prefixes come, go and move: one that runs, and two that do not, and are not
// always in the file.
var others = []string{"control-plane", "edge-1", "edge-2"}

// reloads has a daemon read its file again and again, in which prefixes of others come, go and move. Each
// time WireGuard and the daemon's table are to agree with the file.
func (s *sealed) reloads(d *nstest.Daemon, doc string, count int) {
	s.t.Helper()
	r, c := rand.New(rand.NewPCG(7, uint64(count))), client(s.t, d)
	keys := map[string]string{"control-plane": s.public[s.ControlPlane]}
	for i, name := range others[1:] {
		h, err := s.Lab.Host(name, fmt.Sprintf("172.18.0.%d/16", 50+i))
		if err != nil {
			s.t.Fatal(err)
		}
		s.addKey(h)
		keys[name] = s.public[h]
	}
	for n := range count {
		owners := randomOwners(r)
		if err := os.WriteFile(d.Config, []byte(withOwners(doc, keys, owners)), 0o644); err != nil {
			s.t.Fatal(err)
		}
		if _, err := c.Reload(s.t.Context()); err != nil {
			s.t.Fatalf("reload %d: %v", n, err)
		}
		allowed := s.allowed(d.Host)
		for prefix, owner := range owners {
			route, err := c.Route(s.t.Context(), prefix.Addr().Next())
			if err != nil || route.Peer != owner || allowed[prefix] != keys[owner] {
				s.t.Fatalf("reload %d: %v belongs to %q; the table has %q (%v), WireGuard %q", n, prefix, owner,
					route.Peer, err, allowed[prefix])
			}
			delete(allowed, prefix)
		}
		fixed := map[netip.Prefix]string{netip.MustParsePrefix("10.244.1.0/24"): s.public[s.Worker]}
		for i, name := range others {
			if i == 0 || slices.Contains(slices.Collect(maps.Values(owners)), name) {
				fixed[netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i*100))] = keys[name]
			}
		}
		if !maps.Equal(allowed, fixed) {
			s.t.Fatalf("reload %d: besides %v, WireGuard has %v, want %v", n, owners, allowed, fixed)
		}
	}
}

// randomOwners gives each of some prefixes to one of the others, or to none of them: "".
func randomOwners(r *rand.Rand) map[netip.Prefix]string {
	owners := map[netip.Prefix]string{}
	for i := range 8 {
		inside := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(16 + i), 0}), 24)
		outside := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(16 + i), 0}), 24)
		for _, prefix := range []netip.Prefix{inside, outside} {
			owners[prefix] = append(others, "")[r.IntN(len(others)+1)]
		}
	}
	return owners
}

// withOwners gives prefixes to the nodes of a file; edges are in it if they have some.
func withOwners(doc string, keys map[string]string, owners map[netip.Prefix]string) string {
	for i, name := range others {
		subnets, routes := []string{fmt.Sprintf(`"10.244.%d.0/24"`, i*100)}, []string{}
		for _, prefix := range slices.SortedFunc(maps.Keys(owners), netip.Prefix.Compare) {
			switch {
			case owners[prefix] != name:
			case prefix.Addr().As4()[0] == 10:
				subnets = append(subnets, fmt.Sprintf("%q", prefix))
			default:
				routes = append(routes, fmt.Sprintf("%q", prefix))
			}
		}
		lines := fmt.Sprintf("subnets = [%s]\nroutes = [%s]\n", strings.Join(subnets, ", "),
			strings.Join(routes, ", "))
		switch {
		case i == 0:
			doc = strings.Replace(doc, "subnets = [\"10.244.0.0/24\"]\n", lines, 1)
		case len(subnets)+len(routes) > 1:
			doc += fmt.Sprintf("[[node]]\nname = %q\naddress = \"172.18.0.%d\"\npublic_key = %q\n%s", name, 49+i,
				keys[name], lines)
		}
	}
	return doc
}

// allowed returns which key has which prefix, as WireGuard on a host tells.
func (s *sealed) allowed(h *nstest.Host) map[netip.Prefix]string {
	s.t.Helper()
	all := map[netip.Prefix]string{}
	for line := range strings.Lines(s.wg(h, "show", "meshd-wg", "allowed-ips")) {
		key, prefixes, _ := strings.Cut(strings.TrimSpace(line), "\t")
		for _, text := range strings.Fields(prefixes) {
			if prefix, err := netip.ParsePrefix(text); err == nil { // else "(none)"
				all[prefix] = key
			}
		}
	}
	return all
}
