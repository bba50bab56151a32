package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/drain"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/known"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/plan/plantest"
	"example.org/meshd/internal/rules"
	"example.org/meshd/internal/seal"
)

// quiet is an engine that forwards nothing. Tests set what it has to tell.
type quiet struct {
	engine // what no test needs

	mu         sync.Mutex
	reading    dataplane.Reading
	readings   int // how often it was read
	conditions []mesh.Condition
	alive      error
	learned    []string
	refuses    error // to learn, and to send
	sent       []dataplane.Echo
}

func (e *quiet) Read() dataplane.Reading {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.readings++
	return e.reading
}

func (e *quiet) Conditions() []mesh.Condition          { return e.conditions }
func (e *quiet) Told() seal.Told                       { return seal.Told{} }
func (e *quiet) Alive(context.Context) error           { return e.alive }
func (e *quiet) Heard(string) time.Time                { return time.Time{} }
func (e *quiet) HeardBy(names ...string) []peers.Heard { return make([]peers.Heard, len(names)) }

func (e *quiet) Carry(prefix mesh.Prefix, peer string) error {
	e.learned = append(e.learned, prefix.String()+" by "+peer)
	return e.refuses
}

func (e *quiet) Learn(peer string, d peers.Directive) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if d.Finishes {
		peer += " finishes"
	}
	e.learned = append(e.learned, peer)
	return e.refuses
}

func (e *quiet) Deliver([]byte) error { return nil }

func (e *quiet) SendEcho(echoes ...dataplane.Echo) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sent = append(e.sent, echoes...)
	return e.refuses
}

// newQuietTeller returns a teller over a view, with an engine that forwards nothing.
func newQuietTeller(t testing.TB, v *published) (*teller, *quiet) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	e := &quiet{}
	tell := newTeller(Options{Version: "1.2.3", ConfigPath: "mesh.toml"}, v)
	tell.engine, tell.registry, tell.rules = e, peers.New(), rules.New(log)
	tell.probes = known.New(log, "1.2.3", tell.registry)
	tell.drain = drain.New(t.TempDir(), log, tell.probes.Drain)
	tell.probes.Engine = e
	return tell, e
}

// forwarding returns a teller of a daemon that forwards as a file says.
func forwardingTeller(t testing.TB, doc string) (*teller, *quiet) {
	t.Helper()
	v := newPublished(plantest.Parse(t, doc))
	v.began(plantest.Make(t, doc), now())
	tell, e := newQuietTeller(t, v)
	tell.probes.Follow(v.now().plan)
	return tell, e
}

func problemsOf(s control.Status) (kinds []string) {
	for _, p := range s.Health.Problems {
		kinds = append(kinds, p.Kind)
	}
	return kinds
}

// A node in maintenance tells who has asked for it; its health stays as it is.
func TestStatusTellsOfMaintenance(t *testing.T) {
	tell, _ := forwardingTeller(t, file)
	tell.sources = append(tell.sources, tell.drain.Conditions)
	before := tell.status().Health.Level
	if err := tell.drain.For(60, "disk", "ada"); err != nil {
		t.Fatal(err)
	}
	s := tell.status()
	if d := s.Drain; d == nil || d.By != "ada" || d.Reason != "disk" || d.Until.Sub(*d.Since) != time.Minute ||
		len(d.Waiting) > 0 || s.Health.Level != before || !slices.Contains(problemsOf(s), "maintenance") {
		t.Errorf("%+v, %+v", s.Drain, s.Health)
	}
	if err := tell.drain.End("ada"); err != nil || tell.status().Drain != nil {
		t.Errorf("%v", err)
	}
}

// Before the first plan status tells of the file, and why nothing is forwarded. It asks nobody who
// may not be there yet.
func TestStatusBeforeTheFirstPlan(t *testing.T) {
	v := newPublished(plantest.Parse(t, file))
	tell := newTeller(Options{Version: "1.2.3", ConfigPath: "mesh.toml"}, v)
	s := tell.status()
	if s.Health.Level != "failed" || !slices.Equal(problemsOf(s), []string{"starting"}) || len(s.Warnings) != 1 {
		t.Errorf("%+v, %q", s.Health, s.Warnings)
	}
	if s.Config.Path != absolute(t, "mesh.toml") || s.Config.SHA256 != v.now().config.SHA256() ||
		s.Config.Generation != 0 ||
		!s.Config.LastReload.OK || s.Version != "1.2.3" || len(s.BootID) != 16 || s.Schema != control.Schema {
		t.Errorf("%+v", s)
	}
	if s.Network.Interface != "mesh0" || s.Network.Port != 8285 ||
		!slices.Equal(s.Network.CIDR, []string{"10.244.0.0/16"}) {
		t.Errorf("%+v", s.Network)
	}
	if s.Peers == nil || s.Network.Subnets == nil || s.Dataplane.Offloads == nil || s.Totals.Drops == nil ||
		s.Totals.Unattributed == nil || s.Masquerade.Rules == nil {
		t.Errorf("JSON has lists, never null: %+v", s)
	}
	v.waiting(v.now().config, mesh.Condition{Kind: mesh.WaitingForUs, Severity: mesh.Failed, Cause: "none"})
	if s = tell.status(); !slices.Equal(problemsOf(s), []string{"no_address"}) {
		t.Errorf("%+v", s.Health)
	}
	if got := tell.summary(); got != firstOf(v.now().notes) {
		t.Errorf("%q", got)
	}
	if err := tell.ready(t.Context()); err == nil {
		t.Error("it is ready")
	}
	if _, _, err := tell.ping(t.Context(), control.PingRequest{Peer: "b"}); !errors.Is(err, errNothingYet) {
		t.Errorf("%v", err)
	}
	if _, err := tell.past("", ""); !errors.Is(err, errNothingYet) {
		t.Errorf("%v", err)
	}
	tell.remember(time.Now()) // there is nothing to remember
	if r := tell.route(addrs("10.244.2.5")[0]); r.Peer != "" || r.Reason == "" {
		t.Errorf("%+v", r)
	}
}

// All that is wrong is told once, the worst first, wherever it is known.
func TestStatusTellsOfConditions(t *testing.T) {
	tell, e := forwardingTeller(t, file)
	if s := tell.status(); s.Health.Level != "ok" || len(s.Warnings) != 0 || s.Warnings == nil ||
		s.Health.Problems == nil {
		t.Errorf("%+v, %q", s.Health, s.Warnings)
	}
	e.conditions = []mesh.Condition{{Kind: mesh.SmallBuffers, Severity: mesh.Degraded}}
	tell.sources = []func() []mesh.Condition{
		func() []mesh.Condition { return nil },
		func() []mesh.Condition {
			return []mesh.Condition{{Kind: mesh.FilesFailed, Severity: mesh.Failed, Remedy: "x"}}
		},
	}
	tell.view.change(func(v *view) {
		v.rejected = &mesh.Condition{Kind: mesh.FileRejected, Severity: mesh.Degraded}
		v.notes = []mesh.Condition{{Kind: mesh.HostMismatch, Severity: mesh.Degraded}}
	})
	s := tell.status()
	want := []string{"files_failed", "host_mismatch", "file_rejected", "small_buffers"}
	if got := problemsOf(s); s.Health.Level != "failed" || !slices.Equal(got, want) ||
		len(s.Warnings) != len(want) {
		t.Errorf("%s, %q, %q", s.Health.Level, got, s.Warnings)
	}
	since := s.Health.Problems[0].Since
	if s = tell.status(); !s.Health.Problems[0].Since.Equal(since) || s.Health.Problems[0].Remedy != "x" {
		t.Errorf("%+v", s.Health.Problems[0])
	}
}

// Counters of peers and of the node, and what belongs to no peer.
func TestStatusTellsOfTraffic(t *testing.T) {
	tell, e := forwardingTeller(t, with("[network]", "probe = {interval = \"0s\"}\n[network]"))
	seen := time.Now()
	e.reading = dataplane.Reading{
		Totals: mesh.Traffic{RxPackets: 10, RxBytes: 20, TxPackets: 30, TxBytes: 40,
			Drops: [mesh.NumDrops]uint64{mesh.NoRoute: 5, mesh.SpoofedSource: 7}},
		Peers: map[string]mesh.Traffic{
			"b": {RxPackets: 1, LastSeen: seen, Drops: [mesh.NumDrops]uint64{mesh.SpoofedSource: 3}},
			"c": {Drops: [mesh.NumDrops]uint64{mesh.SpoofedSource: 4}},
		},
		Calls: map[mesh.CallKind]mesh.Calls{mesh.TunRead: {Calls: 2, Packets: 9}},
		Lost:  dataplane.Lost{Socket: 11, Refused: 12, Merger: 13},
		Works: dataplane.Works{Engine: "user", Receive: dataplane.Socket, Queues: 2},
	}
	s := tell.status()
	if *s.Totals.RxPackets != 10 || *s.Totals.TxBytes != 40 || s.Totals.Drops["no_route"] != 5 ||
		s.Totals.Drops["socket_overflow"] != 11 || s.Totals.Drops["tun_overflow"] != 13 {
		t.Errorf("%+v", s.Totals)
	}
	if _, told := s.Totals.Drops[filter.NotFromMeshd]; !told || len(s.Totals.Drops) != int(mesh.NumDrops)+5 {
		t.Errorf("reasons are missing: %v", s.Totals.Drops)
	}
	rest := map[string]uint64{"no_route": 5, "socket_overflow": 11, "socket_refused": 12, "tun_overflow": 13}
	for reason, n := range rest {
		if s.Totals.Unattributed[reason] != n {
			t.Errorf("%d of %s belong to no peer", s.Totals.Unattributed[reason], reason)
		}
	}
	if _, told := s.Totals.Unattributed["spoofed_source"]; told {
		t.Errorf("peers have all of them: %v", s.Totals.Unattributed)
	}
	if len(s.Peers) != 2 || s.Peers[0].Name != "b" || s.Peers[0].State != control.Up ||
		s.Peers[0].LastSeen == nil ||
		s.Peers[1].State != control.Unknown || s.Peers[1].LastSeen != nil ||
		s.Peers[1].Drops["spoofed_source"] != 4 {
		t.Errorf("%+v", s.Peers)
	}
	if s.Dataplane.Engine != "user" || s.Dataplane.Receive != "socket" ||
		s.Dataplane.Calls["tun_read"] != (control.Calls{Calls: 2, Packets: 9}) {
		t.Errorf("%+v", s.Dataplane)
	}
}

// While a part of a plan hangs, everything that is asked is answered: by what is published.
func TestQuestionsWhileAnAttemptHangs(t *testing.T) {
	inBubble(t, func(l *lab) {
		tell, e := newQuietTeller(t, l.view)
		tell.probes.Follow(l.view.now().plan)
		end := make(chan struct{})
		l.set(func(w *world) { w.hang = func() { <-end } })
		l.edit(moved) // returns when the part hangs; a bubble in which something below waits fails
		if s := tell.status(); s.Node != "a" || s.Config.Generation != 1 || s.Health.Level != "ok" {
			t.Errorf("%+v", s)
		}
		if r := tell.route(addrs("10.244.2.5")[0]); r.Peer != "b" {
			t.Errorf("%+v", r)
		}
		if got := tell.summary(); got == "" {
			t.Error("there is no summary")
		}
		if err := tell.current(); err != nil {
			t.Error(err)
		}
		tell.remember(time.Now())
		if h, err := tell.past("", ""); err != nil || h == nil {
			t.Errorf("%+v, %v", h, err)
		}
		if plan, _, err := l.plans(l.t.Context(), "x", []byte(moved)); err != nil || len(plan.Changes) != 1 {
			t.Errorf("%+v, %v", plan, err)
		}
		if err := e.Alive(l.t.Context()); err != nil { // the watchdog asks the engine before the reconciler
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(l.t.Context(), time.Second)
		defer cancel()
		if err := l.alive(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the reconciler hangs, and says %v", err)
		}
		close(end)
		synctest.Wait()
		l.isAt("at last", 2)
	})
}

func TestRoute(t *testing.T) {
	tell, _ := forwardingTeller(t, with(`subnets = ["10.244.3.0/24"]`,
		"subnets = [\"10.244.3.0/24\"]\nroutes = [\"192.168.3.0/24\"]"))
	for _, test := range []struct {
		to, peer, prefix, address string
		why                       bool
	}{
		{"10.244.2.5", "b", "10.244.2.0/24", "172.18.0.3:8285", false},
		{"192.168.3.9", "c", "192.168.3.0/24", "172.18.0.4:8285", false},
		{"10.244.1.5", "a", "10.244.1.0/24", "", true},
		{"10.244.77.5", "", "", "", true},
		{"192.0.2.1", "", "", "", true},
		{"2001:db8::1", "", "", "", true},
	} {
		t.Run(test.to, func(t *testing.T) {
			r := tell.route(netip.MustParseAddr(test.to))
			if r.To != test.to || r.Peer != test.peer || r.Prefix != test.prefix || r.Address != test.address ||
				(r.Reason != "") != test.why {
				t.Errorf("%+v", r)
			}
			if through := r.Interface == "mesh0" && r.Source == "10.244.1.0"; through != (test.address != "") ||
				r.MTU != 1472 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// By which address and for which prefixes packets go to a peer, and that the peer is in maintenance.
func TestStatusTellsOfWays(t *testing.T) {
	tell, _ := forwardingTeller(t, file)
	lan := netip.MustParsePrefix("192.168.7.0/24")
	p := *tell.view.now().plan
	p.Engine.Mesh.Peers = slices.Clone(p.Engine.Mesh.Peers)
	for i := range p.Engine.Mesh.Peers[1:] {
		one := &p.Engine.Mesh.Peers[1+i]
		one.Routes = []netip.Prefix{lan}
		one.Addresses = append(slices.Clone(one.Addresses),
			mesh.Endpoint{AddrPort: netip.AddrPortFrom(addrs("192.0.2.1")[0], uint16(8000+i))})
	}
	p.Engine.Mesh.Shares = []mesh.Share{{Prefix: lan, Carriers: []mesh.Carrier{{Peer: "b", Metric: 100},
		{Peer: "c", Metric: 100}}}}
	tell.view.change(func(v *view) { v.plan = &p })
	tell.probes.Follow(&p)
	at := time.Now()
	tell.probes.Learn("b", func(f *peers.Facts) {
		f.Asked, f.State = true, peers.Down
		f.Addresses = []peers.Address{{At: p.Engine.Mesh.Peers[1].Addresses[0].AddrPort, State: peers.Down},
			{At: p.Engine.Mesh.Peers[1].Addresses[1].AddrPort, State: peers.Up, Answered: at,
				Good: at.Add(-time.Minute)}}
	})
	s := tell.status()
	if u := s.Network.Underlay; u == nil || u.MTU-u.Headers != s.Network.MTU {
		t.Errorf("MTU %d by %+v", s.Network.MTU, u)
	}
	if got := s.Network.Addresses; !slices.Equal(got, []string{"172.18.0.2:8285"}) ||
		s.Network.Address != "172.18.0.2" || s.Network.Port != 8285 {
		t.Errorf("this node: %q, %q", got, s.Network.Address)
	}
	b, c := s.Peers[0], s.Peers[1]
	if len(b.Addresses) != 2 || b.Active() != "192.0.2.1:8000" || c.Active() != "172.18.0.4:8285" ||
		b.Address != "172.18.0.3:8285" {
		t.Errorf("addresses: %+v, %+v", b.Addresses, c.Addresses)
	}
	carries := []control.RouteState{{Prefix: lan.String(), Metric: 100, Active: true}}
	if slices.Equal(b.RouteStates, carries) || !slices.Equal(c.RouteStates, carries) {
		t.Errorf("routes: %+v, %+v", b.RouteStates, c.RouteStates)
	}
	r := tell.route(addrs("192.168.7.9")[0])
	if r.Peer != "c" || r.Address != "172.18.0.4:8285" || len(r.Carriers) != 2 || r.Carriers[0].Active ||
		!r.Carriers[1].Active || r.Interface != "mesh0" {
		t.Errorf("%+v", r)
	}
}

// A successor, which knows only the file on disk, may take over only if that is in force.
func TestCurrent(t *testing.T) {
	tell, _ := forwardingTeller(t, file)
	if err := tell.current(); err != nil {
		t.Error(err)
	}
	tell.view.reloaded(result{outcome: faultyFile, err: errRefused}, now())
	if err := tell.current(); err == nil {
		t.Error("the file on disk was rejected")
	}
	tell.view.reloaded(result{outcome: applied, plan: plantest.Make(t, file)}, now())
	if err := tell.current(); err != nil {
		t.Error(err)
	}
}

// The event of a change has the level of the log line and both levels of health, under names of their own.
func TestHealthEvent(t *testing.T) {
	tell, _ := forwardingTeller(t, file)
	var lines bytes.Buffer
	tell.log = slog.New(slog.NewJSONHandler(&lines, nil))
	tell.watchHealth(now())
	if lines.Len() > 0 {
		t.Errorf("well from the start, which is no event: %s", lines.String())
	}
	for _, test := range []struct {
		name            string
		res             result
		level, was, now string
	}{
		{"rejected", result{outcome: faultyFile, err: errRefused}, "WARN", "ok", "degraded"},
		{"mended", result{outcome: applied, plan: plantest.Make(t, file)}, "INFO", "degraded", "ok"},
	} {
		t.Run(test.name, func(t *testing.T) {
			lines.Reset()
			tell.view.reloaded(test.res, now())
			tell.watchHealth(now())
			var line struct{ Level, Event, Was, Now, Worst string }
			if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
				t.Fatalf("%v in %q", err, lines.String())
			}
			if line.Event != "health" || line.Level != test.level || line.Was != test.was ||
				line.Now != test.now || (line.Worst == "") != (test.now == "ok") {
				t.Errorf("%+v", line)
			}
		})
	}
}

// A daemon that is not well from the start was not well before: the first event has no level of before.
func TestFirstHealthEvent(t *testing.T) {
	tell, _ := forwardingTeller(t, file)
	var lines bytes.Buffer
	tell.log = slog.New(slog.NewJSONHandler(&lines, nil))
	tell.view.reloaded(result{outcome: faultyFile, err: errRefused}, now())
	for range 2 {
		tell.watchHealth(now())
	}
	var line struct{ Event, Was, Now string }
	if err := json.Unmarshal(lines.Bytes(), &line); err != nil { // two lines are no JSON
		t.Fatalf("%v in %q", err, lines.String())
	}
	if line.Event != "health" || line.Was != "" || line.Now != "degraded" {
		t.Errorf("%+v", line)
	}
}

// The remedy of a file that needs a new start is that, not another edit.
func TestRejectedUntilRestart(t *testing.T) {
	tell, _ := forwardingTeller(t, file)
	tell.view.reloaded(result{outcome: faultyFile, err: plan.ErrRestart}, now())
	if c := tell.view.now().rejected; c == nil || c.Kind != mesh.FileRejected ||
		!strings.Contains(c.Remedy, "systemctl restart meshd") {
		t.Errorf("%+v", c)
	}
}

func TestReady(t *testing.T) {
	tell, _ := forwardingTeller(t, file)
	hangs := errors.New("hangs")
	for _, test := range []struct {
		name  string
		notes []mesh.Condition
		alive error
		iface string
		ready bool
	}{
		{"packets move", nil, nil, "lo", true},
		{"a loop hangs", nil, hangs, "lo", false},
		{"the host refuses", []mesh.Condition{{Kind: mesh.CannotApply}}, nil, "lo", false},
		{"the interface is gone", nil, nil, "gone0", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := *tell.view.now().plan
			p.Link.Interface = test.iface
			tell.view.change(func(v *view) { v.plan, v.notes = &p, test.notes })
			tell.engine = &quiet{alive: test.alive}
			if err := tell.ready(t.Context()); (err == nil) != test.ready ||
				test.alive != nil && !errors.Is(err, hangs) {
				t.Errorf("%v", err)
			}
		})
	}
}

// What is read each second is what GET /v1/history tells, with what probes know.
func TestRemember(t *testing.T) {
	tell, e := forwardingTeller(t, file)
	at := time.Now()
	e.reading.Peers = map[string]mesh.Traffic{"b": {LastSeen: at}, "c": {}}
	tell.remember(at)
	e.reading.Totals.RxPackets = 5
	e.reading.Totals.Drops[mesh.NoRoute] = 2
	e.reading.Peers = map[string]mesh.Traffic{"b": {RxPackets: 3, LastSeen: at}, "c": {}}
	tell.remember(at.Add(time.Second))
	last := func(list []*float64) float64 {
		if v := list[len(list)-1]; v != nil {
			return *v
		}
		return math.NaN()
	}
	node, err := tell.past("", "5m")
	if err != nil || last(node.RxPackets) != 5 || last(node.Drops) != 2 || node.BootID != tell.bootID {
		t.Errorf("%+v, %v", node, err)
	}
	b, err := tell.past("b", "5m")
	if err != nil || last(b.RxPackets) != 3 || !math.IsNaN(last(b.RTTMS)) {
		t.Errorf("%+v, %v", b, err)
	}
	if h, err := tell.past("nobody", ""); h != nil || err != nil {
		t.Errorf("%+v, %v", h, err)
	}
	if got := tell.registry.Of("b"); !got.Heard.Equal(at) {
		t.Errorf("%+v", got)
	}
	if !slices.Equal(e.learned, []string{"b", "c"}) && !slices.Equal(e.learned, []string{"c", "b"}) {
		t.Errorf("the engine learned %q, where each peer is news once", e.learned)
	}
}

// A mesh of thousands is read every few seconds, another one every second.
func TestSeldom(t *testing.T) {
	for peers, want := range map[int]int{2: 10, peersAtOnce: 10, peersAtOnce + 1: 5, 10_000: 2} {
		t.Run(fmt.Sprint(peers), func(t *testing.T) {
			tell, e := forwardingTeller(t, file)
			p := *tell.view.now().plan
			p.Engine.Mesh.Peers = make([]mesh.Peer, peers)
			tell.view.change(func(v *view) { v.plan = &p })
			look := tell.seldom(tell.remember)
			for second := range 10 {
				look(time.Unix(1_800_000_000+int64(second), int64(second%2)*1e7))
			}
			if e.readings != want {
				t.Errorf("%d readings in 10 s, want %d", e.readings, want)
			}
		})
	}
}

// What is remembered each second, and once more for the first question, is not shared: both go on at the same
// time as health is judged.
func TestReadingsAreNotShared(t *testing.T) {
	tell, _ := forwardingTeller(t, file)
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for i := range 50 {
				tell.remember(time.Unix(1_800_000_000+int64(i), 0))
			}
		})
	}
	all.Wait()
}
