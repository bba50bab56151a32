package e2e

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// `make chaos` gives it longer.
var (
	chaosTime   = flag.Duration("chaos", 5*time.Second, "how long TestChaos makes trouble")
	chaosRounds = flag.Int("chaos.rounds", 1, "in how many rounds TestChaos makes trouble")
	chaosQuiet  = flag.Duration("chaos.quiet", 0, "how long no daemon may have a problem after each round; "+
		"0: no round waits until all is well")
	chaosSeed = flag.Uint64("chaos.seed", 0, "what trouble it makes; 0: another one each time")
)

// chaos makes trouble for the daemons of a world.
type chaos struct {
	*world
	*rand.Rand
	doc     string // the file that is good for all
	hosts   []*nstest.Host
	daemons []*nstest.Daemon
	service *nstest.Service // of the first
	seen    []control.Status
	counts  map[string]int // of what was done
}

// trouble is one kind of it, for one host.
type trouble struct {
	name string
	make func(c *chaos, i int) error
}

// ip is trouble made with lines of `ip`; what is refused, because the interface is
// away already, is no less trouble.
func ip(name string, lines ...string) trouble {
	return trouble{name, func(c *chaos, i int) error {
		for _, line := range lines {
			_ = c.hosts[i].IP(line)
		}
		return nil
	}}
}

// edit is trouble made with the file.
func edit(name string, change func(c *chaos, doc string) string) trouble {
	return trouble{name, func(c *chaos, i int) error {
		return os.WriteFile(c.daemons[i].Config, []byte(change(c, c.doc)), 0o644)
	}}
}

func network(keys string) func(*chaos, string) string {
	return func(_ *chaos, doc string) string {
		return strings.Replace(doc, "[network]\n", "[network]\n"+keys+"\n", 1)
	}
}

func dataplane(keys string) func(*chaos, string) string {
	return func(_ *chaos, doc string) string {
		if table := "[dataplane]\n"; strings.Contains(doc, table) {
			return strings.Replace(doc, table, table+keys+"\n", 1)
		}
		return doc + "[dataplane]\n" + keys + "\n"
	}
}

// defaultRoute is the way by which pods' packets would leave bare: a router on the underlay.
const defaultRoute = "route replace default via 172.18.0.1"

var troubles = []trouble{
	edit("more peers", func(c *chaos, doc string) string {
		for i := range 1 + c.IntN(50) {
			doc += fmt.Sprintf("[[node]]\nname = \"n%d\"\naddress = \"172.18.9.%d\"\nsubnets = [\"10.244.%d.0/24\"]\n",
				i, i+1, i+10)
		}
		return doc
	}),
	edit("the same", func(_ *chaos, doc string) string { return doc }),
	edit("a typo", func(_ *chaos, doc string) string { return doc + "[[node]\n" }),
	edit("nothing", func(*chaos, string) string { return "" }),
	edit("half a file", func(c *chaos, doc string) string { return doc[:c.IntN(len(doc))] }),
	edit("another MTU", network("mtu = 1300")),
	edit("another port", network("port = 9999")),
	edit("another interface", network("interface = \"other0\"")),
	edit("three queues", dataplane("queues = 3")),
	edit("two queues, spread", dataplane("queues = 2\nspread = true")),
	edit("no offload", dataplane("offload = \"off\"")),
	edit("no masquerading",
		func(_ *chaos, doc string) string { return doc + "[masquerade]\nenabled = false\n" }),
	{"no file", func(c *chaos, i int) error {
		err := os.Remove(c.daemons[i].Config)
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}},
	{"SIGHUPs", func(c *chaos, i int) error {
		for range c.IntN(20) {
			if err := syscall.Kill(c.daemons[i].PID(), syscall.SIGHUP); err != nil {
				return err
			}
		}
		return nil
	}},
	{"a reload is asked for", func(c *chaos, i int) error {
		client := control.NewClient(c.daemons[i].Socket)
		defer client.Close()
		_, err := client.Reload(context.Background())
		return err
	}},
	ip("TUN down", "link set mesh0 down"),
	ip("TUN deleted", "link del mesh0"),
	ip("TUN flaps", "link set mesh0 down", "link set mesh0 up", "link set mesh0 down", "link set mesh0 up"),
	ip("another TUN address", "addr flush dev mesh0", "addr add 10.9.9.9/24 dev mesh0"),
	ip("routes deleted", "route flush dev mesh0"),
	ip("another MTU on the TUN", "link set mesh0 mtu 600"),
	ip("another underlay MTU", "link set eth0 mtu 1400"),
	ip("underlay MTU as before", "link set eth0 mtu 1500"),
	ip("underlay flaps", "link set eth0 down", "link set eth0 up", defaultRoute),
	{"address away and back", func(c *chaos, i int) error {
		address := []string{"172.18.0.3/16", "172.18.0.4/16", "172.18.0.2/16"}[i]
		return c.hosts[i].IP("addr del "+address+" dev eth0", "addr add "+address+" dev eth0", defaultRoute)
	}},
	{
		"rules flushed",
		func(c *chaos, i int) error { _, err := c.hosts[i].Run("nft", "flush", "ruleset"); return err },
	},
	{"killed", func(c *chaos, i int) error { c.daemons[i].Kill(); return c.restart(i) }},
	{"restarted", func(c *chaos, i int) error {
		if _, err := c.daemons[i].Stop(); err != nil {
			return err
		}
		return c.restart(i)
	}},
	{"asked", func(c *chaos, i int) error { return c.look(i) }},
}

// restart starts a daemon with the good file: a bad one at the start is an error.
func (c *chaos) restart(i int) error {
	if err := os.WriteFile(c.daemons[i].Config, []byte(c.doc), 0o644); err != nil {
		return err
	}
	var s *nstest.Service
	if i == 0 {
		s = c.service
	}
	c.daemons[i] = c.startService(s, c.hosts[i], c.daemons[i].Config)
	return c.daemons[i].WaitReady()
}

// look checks that counters add up, and that they have not fallen.
func (c *chaos) look(i int) error {
	client := control.NewClient(c.daemons[i].Socket)
	defer client.Close()
	s, err := client.Status(context.Background())
	if err != nil {
		return err
	}
	var rx, tx uint64
	drops := map[string]uint64{}
	for _, p := range s.Peers {
		rx += *p.RxPackets
		tx += *p.TxPackets
		for reason, n := range p.Drops {
			drops[reason] += n
		}
	}
	if rx > *s.Totals.RxPackets || tx > *s.Totals.TxPackets {
		return fmt.Errorf("the peers have received %d and sent %d, all in all %+v", rx, tx, s.Totals)
	}
	for reason, n := range drops {
		if n > s.Totals.Drops[reason] {
			return fmt.Errorf("the peers have %d drops for %s, all in all %d", n, reason, s.Totals.Drops[reason])
		}
	}
	last := c.seen[i]
	if last.BootID == s.BootID {
		if *s.Totals.RxPackets < *last.Totals.RxPackets || *s.Totals.TxPackets < *last.Totals.TxPackets ||
			s.Config.Generation < last.Config.Generation {
			return fmt.Errorf("counters fell from %+v to %+v", last.Totals, s.Totals)
		}
		for reason, n := range last.Totals.Drops {
			if s.Totals.Drops[reason] < n {
				return fmt.Errorf("%s fell from %d to %d", reason, n, s.Totals.Drops[reason])
			}
		}
	}
	c.seen[i] = s
	return nil
}

// makeTrouble makes trouble for a time.
func (c *chaos) makeTrouble(how time.Duration) {
	c.t.Helper()
	for deadline := time.Now().Add(how); time.Now().Before(deadline); {
		i, trouble := c.IntN(len(c.hosts)), troubles[c.IntN(len(troubles))]
		c.counts[trouble.name]++
		if err := trouble.make(c, i); err != nil {
			c.t.Fatalf("%s on %s: %v", trouble.name, c.hosts[i].Name, err)
		}
	}
}

// heal takes away what of the trouble stays.
func (c *chaos) heal() {
	c.t.Helper()
	for i, h := range c.hosts {
		if err := h.IP("link set eth0 mtu 1500"); err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(c.daemons[i].Config, []byte(c.doc), 0o644); err != nil {
			c.t.Fatal(err)
		}
	}
}

var ownGoroutine = regexp.MustCompile(`(?m)^created by (example\.org|github\.com|golang\.org|sync)`)

var linkIndex = regexp.MustCompile(`(?m)^\d+: `)

// kernelState is all that meshd has in the kernel, sorted, without the numbers of
// interfaces, and the multicast route, of which the kernel adds another one
// whenever an MTU allows IPv6 again.
func kernelState(t testing.TB, h *nstest.Host) string {
	t.Helper()
	var lines []string
	for _, command := range []string{"ip -o link show dev mesh0", "ip -o addr show dev mesh0",
		"ip route show table all dev mesh0",
		"ip -6 route show table all dev mesh0", "ip route show type unreachable", "nft -s list ruleset"} {
		words := strings.Fields(command)
		out, err := h.Run(words[0], words[1:]...)
		if err != nil {
			out = err.Error()
		}
		// Where the TUN is deleted while its queues are opened, opening makes it anew. Its carrier
		// has then been there from the first, and no change of it tells the kernel that it is
		// up: it is "unknown", as the TUN of most programs is.
		out = strings.Replace(out, " state UNKNOWN ", " state UP ", 1)
		out = nstest.SortSets(out)
		lines = append(lines, strings.Split(linkIndex.ReplaceAllString(out, ""), "\n")...)
	}
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, "ff00::/8") })
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// goroutines ends a daemon and returns how many it had, without the runtime's, those of
// clients and those of reads, and their stacks.
func goroutines(t *testing.T, d *nstest.Daemon) (n int, stacks string) {
	t.Helper()
	if err := syscall.Kill(d.PID(), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Exit(); err != nil {
		t.Fatal(err)
	}
	_, stacks, _ = strings.Cut(d.Log(), "SIGQUIT")
	// While a read of netlink lasts it has a goroutine of its own, of a WaitGroup as those of packet loops.
	// Whoever reads pauses between two of them.
	reads := strings.Count(stacks, "created by sync.(*WaitGroup).Go") -
		strings.Count(stacks, "(*loops).start.func")
	return len(ownGoroutine.FindAllString(stacks, -1)) - reads, stacks
}

// watchForBarePackets gives each host a way to a router, and returns a function that fails the test
// for the first packet of a pod that has left bare, for whatever host, since then.
func (c *chaos) watchForBarePackets() (check func()) {
	c.t.Helper()
	if _, err := c.Lab.Host("router", "172.18.0.1/16"); err != nil {
		c.t.Fatal(err)
	}
	return c.watchRouter()
}

// watchRouter is watchForBarePackets where there is a router.
func (c *chaos) watchRouter() (check func()) {
	c.t.Helper()
	captures := map[string]*nstest.Capture{}
	for _, h := range c.hosts {
		if err := h.IP(defaultRoute); err != nil {
			c.t.Fatal(err)
		}
		capture, err := h.Bare("eth0", netip.MustParsePrefix("10.244.0.0/16"))
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { capture.Close() })
		captures[h.Name] = capture
	}
	return func() {
		c.t.Helper()
		for name, capture := range captures {
			frame, err := capture.Next(time.Millisecond, func([]byte) bool { return true })
			if !errors.Is(err, nstest.ErrNoFrame) {
				c.t.Errorf("a packet of a pod left %s bare: % x, %v", name, frame, err)
			}
		}
	}
}

// Random reloads, damage, flaps, kills and restarts, under traffic: in the end
// each host is as if nothing had happened, and the daemons have kept nothing.
func TestChaos(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	seed := cmp.Or(*chaosSeed, uint64(time.Now().UnixNano()))
	t.Logf("the same trouble again: -chaos.seed %d", seed)
	w := newWorld(t)
	c := &chaos{world: w, Rand: rand.New(rand.NewPCG(seed, 0)),
		doc: onEngine(t, demoFile(t)), counts: map[string]int{},
		hosts: []*nstest.Host{
			w.Worker2,
			w.Worker,
			w.ControlPlane,
		}, seen: make([]control.Status, 3), service: w.manager(w.Worker2, 0)}
	for i, h := range c.hosts {
		c.daemons = append(c.daemons, &nstest.Daemon{Config: w.write(c.doc)})
		if err := c.restart(i); err != nil {
			t.Fatal(h.Name, err)
		}
	}
	var before []string
	for i, h := range c.hosts {
		if err := c.look(i); err != nil {
			t.Fatal(err)
		}
		before = append(before, kernelState(t, h))
	}
	files, engine := descriptors(t, c.daemons[2]), status(t, c.daemons[2]).Dataplane.Engine
	fresh, _ := goroutines(t, c.daemons[2])
	if err := c.restart(2); err != nil {
		t.Fatal(err)
	}
	bare := c.watchForBarePackets()
	traffic := w.newTrafficOf(1000, true)

	for range *chaosRounds {
		c.makeTrouble(*chaosTime / time.Duration(*chaosRounds))
		c.heal()
		if *chaosQuiet > 0 {
			c.beQuiet(*chaosQuiet)
		}
	}
	t.Logf("%v", c.counts)

	// Packets that a busy machine had no queue for are a problem for half a minute.
	const well = 45 * time.Second
	for i, h := range c.hosts {
		now := ""
		for deadline := time.Now().Add(well); now != before[i]; {
			s := status(t, c.daemons[i])
			if len(problems(s)) == 0 && len(s.Peers) == 2 && s.Dataplane.Engine == engine &&
				descriptors(t, c.daemons[i]) <= files+lazy {
				now = kernelState(t, h)
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s is not well again: %q, more than %d descriptors?\n%s\n%s\nbefore:\n%s", h.Name, s.Warnings,
					files, descriptorList(t, c.daemons[i]), now, before[i])
			}
		}
		if err := c.look(i); err != nil {
			t.Error(err)
		}
	}
	traffic.finish() // what was lost was lost to the trouble
	bare()
	traffic = w.newTraffic(1000)
	for range 3 {
		for _, d := range c.daemons {
			if _, err := client(t, d).Reload(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	if lost := traffic.finish(); lost != [2]uint64{} {
		t.Errorf("lost %v though all is well", lost)
	}
	for i, d := range c.daemons {
		n, stacks := goroutines(t, d)
		if n > fresh {
			t.Errorf("%d goroutines, a fresh meshd has %d:\n%s", n, fresh, stacks)
		}
		if err := c.restart(i); err != nil { // for the end of the test
			t.Error(err)
		}
	}
}
