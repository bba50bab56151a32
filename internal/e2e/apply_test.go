package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/nstest"
)

// descriptors returns how many files a daemon has open.
func descriptors(t testing.TB, d *nstest.Daemon) int {
	t.Helper()
	return strings.Count(descriptorList(t, d), "\n")
}

// descriptorList returns them, one a line.
func descriptorList(t testing.TB, d *nstest.Daemon) string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", d.PID())
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	list := ""
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil { // closed meanwhile
			continue
		}
		list += e.Name() + " " + target + "\n"
	}
	return list
}

// An obstacle makes one step of a transaction fail.
type obstacle struct {
	name string
	step string // as the error names it
	doc  string // of the file that cannot be applied while it is there
	put  func(t *testing.T, w *world, d *nstest.Daemon) (remove func() error)
}

const v6Doc = `[network]
name = "demo"
mtu = 1400
cidr = ["10.244.0.0/16", "fd00:10:244::/48"]
`

// obstacles has one for every step that can fail in a running daemon, in their
// order, and each behind something that was done already.
func obstacles(t *testing.T) []obstacle {
	nodes := demoFile(t)[strings.Index(demoFile(t), "[[node]]"):]
	network := func(keys string) string {
		return strings.Replace(demoFile(t), "[network]\n", "[network]\nmtu = 1400\n"+keys, 1) + fourth
	}
	return []obstacle{
		{
			"a port that is taken",
			"bind the port",
			network("port = 9999\n"),
			func(t *testing.T, w *world, _ *nstest.Daemon) func() error {
				return listen(t, w.Worker2.Namespace, "172.18.0.3:9999").Close
			},
		},
		{
			"too few descriptors",
			"bind the port",
			network("") + "[dataplane]\nqueues = 8\n",
			func(t *testing.T, w *world, d *nstest.Daemon) func() error {
				limit := func(n string) error {
					_, err := w.Worker2.Run("prlimit", "--pid", strconv.Itoa(d.PID()), "--nofile="+n)
					return err
				}
				if err := limit(fmt.Sprintf("%d:4096", descriptors(t, d)+20)); err != nil {
					t.Fatal(err)
				}
				return func() error { return limit("4096:4096") }
			},
		},
		{
			"IPv6 is off",
			"interface",
			v6Doc + strings.Replace(nodes, `subnets = ["10.244.2.0/24"]`,
				`subnets = ["10.244.2.0/24", "fd00:10:244:2::/64"]`, 1),
			func(t *testing.T, w *world, _ *nstest.Daemon) func() error {
				set := func(v string) error { return w.Worker2.Sysctl("ipv6.conf.mesh0.disable_ipv6", v) }
				if err := set("1"); err != nil {
					t.Fatal(err)
				}
				return func() error { return set("0") }
			},
		},
		{
			"another program has all queues",
			"attach to the TUN",
			network("") + "[dataplane]\nqueues = 8\n",
			func(t *testing.T, w *world, _ *nstest.Daemon) func() error {
				const most = 256 // MAX_TAP_QUEUES in drivers/net/tun.c
				var group []*tun.Queue
				if err := w.Worker2.Do(func() (err error) {
					group, err = tun.OpenGroup("mesh0", true, most-1)
					return err
				}); err != nil {
					t.Fatal(err)
				}
				for _, q := range group {
					if err := q.Descriptor(func(fd uintptr) {
						request, err := unix.NewIfreq("mesh0")
						if err == nil {
							request.SetUint16(unix.IFF_DETACH_QUEUE) // it gets no packets
							err = unix.IoctlIfreq(int(fd), unix.TUNSETQUEUE, request)
						}
						if err != nil {
							t.Error(err)
						}
					}); err != nil {
						t.Error(err)
					}
				}
				return func() (err error) {
					for _, q := range group {
						err = errors.Join(err, q.Close())
					}
					return err
				}
			},
		},
		{
			"somebody owns a table of our name",
			"rules",
			network(""),
			func(t *testing.T, w *world, _ *nstest.Daemon) func() error {
				// A table that only its owner may change.
				nft := w.Worker2.Command("nft", "-i")
				in, err := nft.StdinPipe()
				if err == nil {
					err = nft.Start()
				}
				if err == nil {
					_, err = io.WriteString(in, "add table ip6 meshd { flags owner; }\n")
				}
				if err != nil {
					t.Fatal(err)
				}
				tables := ""
				eventually(t, "nft has made its table", func() bool {
					tables = run(t, w.Worker2.Namespace, "nft", "list", "tables")
					return strings.Contains(tables, "table ip6 meshd")
				}, func() string { return tables })
				return func() error {
					if err := in.Close(); err != nil {
						return err
					}
					return nft.Wait()
				}
			},
		},
	}
}

// A step that fails undoes those before it: the generation in force goes on,
// whole, with not a packet lost, and the same file is applied once the obstacle is
// gone.
func TestEveryStepUndoesTheOthers(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	for _, o := range obstacles(t) {
		t.Run(o.name, func(t *testing.T) {
			// Where other programs keep meshd from the CPU for long, the TUN overflows,
			// with an obstacle or without; then all is done again.
			for attempt := 1; ; attempt++ {
				lost, overflowed := o.hit(t)
				if lost == [2]uint64{} {
					return
				}
				if lost != overflowed || attempt == 3 {
					t.Fatalf("lost %v, in the TUN's queues %v", lost, overflowed)
				}
			}
		})
	}
}

// hit has a daemon run into the obstacle under traffic. It returns how many packets
// were lost each way, and how many of them because the TUN's queue was full.
func (o obstacle) hit(t *testing.T) (lost, overflowed [2]uint64) {
	w := newWorld(t)
	d, _ := w.own(w.Worker2, demoFile(t)), w.own(w.Worker, demoFile(t))
	client := client(t, d)
	if _, err := client.Reload(t.Context()); err != nil { // so that all descriptors that stay are open
		t.Fatal(err)
	}
	remove := o.put(t, w, d)
	before, open, full := hostState(t, w.Worker2), descriptors(t, d), w.overflows()
	traffic := w.newTraffic(2000)
	// The watch sees the file too, and may be first.
	save(t, d, o.doc)
	result, err := client.Reload(context.Background())
	if err != nil || result.Reload.OK || !strings.Contains(result.Reload.Error, o.step+":") ||
		result.Generation != 1 {
		t.Errorf("%+v, %v", result, err)
	}
	lost, overflowed = traffic.finish(), w.overflows().since(full)
	sameHostState(t, w.Worker2, before)
	s := status(t, d)
	if len(s.Peers) != 2 || s.Network.MTU != 1472 || s.Network.Port != 8285 || s.Dataplane.Queues != 1 ||
		len(problems(s)) != 1 {
		t.Errorf("%+v, %+v, %q", s.Network, s.Dataplane, s.Warnings)
	}
	// Connections of clients that are gone close a moment later.
	waitStatus(t, d, "no descriptor more", func(control.Status) bool { return descriptors(t, d) <= open })
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	if result, err = client.Reload(t.Context()); err != nil || !result.Reload.OK {
		t.Errorf("with the obstacle gone: %+v, %v", result, err)
	}
	if s := status(t, d); s.Config.Generation != 2 || s.Network.MTU != 1400 {
		t.Errorf("generation %d, %+v", s.Config.Generation, s.Network)
	}
	return lost, overflowed
}
