package e2e

import (
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// routeOf asks a daemon for the route to an address.
func routeOf(t *testing.T, d *nstest.Daemon, to string) control.Route {
	t.Helper()
	c := control.NewClient(d.Socket)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := c.Route(ctx, netip.MustParseAddr(to))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A rule of another program that takes the packets of pods is named while it does so, and its remedy
// cures it.
func TestRuleThatTakesPackets(t *testing.T) {
	eachEngine(t, nstest.Waiting, func(t *testing.T) {
		m := newWorld(t).startAll(demoFile(t))
		pings := func(want bool) {
			t.Helper()
			if out, err := m.PodW2b.Run("ping", "-c", "1", "-W", "2", "10.244.1.2"); (err == nil) != want {
				t.Errorf("ping: %v, want %v\n%s", err, want, out)
			}
		}
		asks := func(want bool, table string) {
			t.Helper()
			out, err := m.w2.Ask("route", "--json", "10.244.1.2")
			var r control.Route
			if wrong := json.Unmarshal([]byte(out), &r); wrong != nil || (err == nil) != want {
				t.Fatalf("meshd route: %v, %v\n%s", err, wrong, out)
			}
			if len(r.Kernel) != 2 {
				t.Fatalf("the kernel was not asked about host and pods: %+v", r)
			}
			for _, k := range r.Kernel {
				if k.Agrees != want || k.Table != table || k.Rule == "" {
					t.Errorf("%+v, want table %s", k, table)
				}
			}
		}
		diverted := func(s control.Status) bool {
			return only(s, "rule_diverts") && s.Health.Problems[0].Level == "failed"
		}
		well := func(s control.Status) bool { return len(s.Warnings) == 0 }
		before := waitStatus(t, m.w2, "well", well)
		pings(true)
		asks(true, "main")

		rule := func(lines ...string) {
			t.Helper()
			if err := m.Worker2.IP(lines...); err != nil {
				t.Fatal(err)
			}
		}
		rule("link add d0 type veth peer name d1", "link set d0 up", "link set d1 up",
			"route add 10.0.0.0/8 dev d0 table 52", "rule add pref 5270 lookup 52")
		s := waitStatus(t, m.w2, "the rule", diverted)
		pings(false)
		asks(false, "52")

		command := strings.Split(s.Health.Problems[0].Remedy, "`")[1]
		run(t, m.Worker2.Namespace, "sh", "-c", command)
		waitStatus(t, m.w2, "cured", well)
		pings(true)
		asks(true, "main")

		run(t, m.Worker2.Namespace, "sh", "-c", strings.Replace(command, " add ", " del ", 1))
		waitStatus(t, m.w2, "the rule again", diverted)
		rule("rule del pref 5270")
		after := waitStatus(t, m.w2, "gone", well)
		pings(true)
		if after.Dataplane.Engine != before.Dataplane.Engine || after.Config.Error != "" {
			t.Errorf("%+v, before %+v", after.Dataplane, before.Dataplane)
		}
	})
}

// Where a rule leads to the peers by a table of its own, programs are attached to the interface in
// use, and the MTU is that of the route, live.
func TestUnderlayByRule(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	uplink := func(h *nstest.Host, own, other string) {
		t.Helper()
		err := h.IP("addr add 172.21.0."+own+"/24 dev up1", "link set up1 up", "addr add 9.9.9."+own+"/32 dev lo",
			"route add 9.9.9."+other+" via 172.21.0."+other+" src 9.9.9."+own+" mtu 1400 table 77",
			"rule add pref 77 lookup 77")
		if err != nil {
			t.Fatal(err)
		}
	}
	run(t, w.Worker.Namespace, "ip", "link", "add", "up1", "type", "veth", "peer", "name", "up1", "netns",
		w.Worker2.Name)
	uplink(w.Worker, "4", "3")
	uplink(w.Worker2, "3", "4")
	doc := strings.NewReplacer("172.18.0.4", "9.9.9.4", "172.18.0.3", "9.9.9.3").Replace(demoFile(t))
	file := w.write(doc + "[dataplane]\nengine = \"kernel\"\n[probe]\ninterval = \"200ms\"\n")
	worker, worker2 := w.start(w.Worker, file), w.start(w.Worker2, file)
	for _, d := range []*nstest.Daemon{worker, worker2} {
		if err := d.WaitReady(); err != nil {
			t.Fatal(err)
		}
	}
	known(t, worker, "worker2")
	known(t, worker2, "worker")

	before := status(t, worker)
	run(t, w.PodW2b, "ping", "-q", "-c", "20", "-i", "0.05", "10.244.1.2")
	// Probes come by the socket, packets of pods do not.
	after := waitStatus(t, worker, "packets of pods", func(s control.Status) bool {
		return *peer(t, s, "worker2").RxPackets >= *peer(t, before, "worker2").RxPackets+20
	})
	if n := after.Dataplane.Calls["tun_write"].Packets - before.Dataplane.Calls["tun_write"].Packets; n >= 20 {
		t.Errorf("user space took %d packets, and some are the node's own probes", n)
	}
	for _, mtu := range []string{"1400", "1300", "1350"} {
		if mtu != "1400" {
			run(t, w.Worker.Namespace, "ip", "route", "change", "9.9.9.3", "via", "172.21.0.3", "src", "9.9.9.4",
				"mtu", mtu, "table", "77")
		}
		want := map[string]int{"1400": 1372, "1300": 1272, "1350": 1322}[mtu]
		var r control.Route
		eventually(t, "MTU of the route "+mtu, func() bool {
			r = routeOf(t, worker, "10.244.2.2")
			return r.MTU == want
		}, func() string { b, _ := json.Marshal(r); return string(b) })
	}
}
