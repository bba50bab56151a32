package steer_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/probe"
	"example.org/meshd/internal/steer"
)

// engine notes what it is told.
type engine struct {
	told  []string
	heard peers.Heard
}

func (e *engine) Learn(peer string, d peers.Directive) error {
	e.told = append(e.told, fmt.Sprint(peer, " via ", d.Via, " by user ", d.OutByUser))
	return errors.New("full")
}

func (e *engine) Carry(prefix mesh.Prefix, peer string) error {
	e.told = append(e.told, prefix.String()+" by "+peer)
	return errors.New("full")
}

func (e *engine) HeardBy(names ...string) []peers.Heard {
	return slices.Repeat([]peers.Heard{e.heard}, len(names))
}

// take returns what was told since the last call.
func (e *engine) take() []string {
	told := e.told
	e.told = nil
	return told
}

var (
	noon   = time.Unix(1e9, 0)
	prefix = netip.MustParsePrefix("192.168.7.0/24")
	first  = netip.MustParseAddrPort("172.18.0.3:8285")
	second = netip.MustParseAddrPort("10.9.0.3:8285")
)

func newSteerer() (*steer.Steerer, *engine, *probe.Prober, *peers.Registry, *nstest.Events) {
	log, e, r := &nstest.Events{}, &engine{}, peers.New()
	p := probe.New(unheard)
	return steer.New(slog.New(log), r, p, func() steer.Engine { return e }), e, p, r, log
}

// at returns facts about a peer of two addresses.
func at(now time.Time, silent bool) func(*peers.Facts) {
	return func(f *peers.Facts) {
		f.Asked, f.State = true, peers.Up
		f.Addresses = []peers.Address{
			{At: first, State: peers.Up, Silent: silent, Good: now, Answered: now.Add(-time.Second)},
			{At: second, State: peers.Up, Good: noon.Add(-time.Minute), Answered: now}}
	}
}

// The engine, the probes and the log follow the address that packets go to, and each hears of it once.
func TestAddressesAreFollowed(t *testing.T) {
	s, e, p, _, log := newSteerer()
	p.Set(probe.Settings{Peers: []string{"b"}, Interval: time.Second,
		Via: map[string][]netip.AddrPort{"b": {first, second}}})
	inUse := func() netip.AddrPort {
		r, _ := p.Report("b")
		i := slices.IndexFunc(r.Paths, func(one probe.PathReport) bool { return one.Active })
		return r.Paths[i].Via
	}
	none := netip.AddrPort{}
	for _, step := range []struct {
		name   string
		after  time.Duration
		silent bool
		told   netip.AddrPort
		news   bool
		inUse  netip.AddrPort
		event  []string
	}{
		{"both answer", 0, false, none, true, first, nil},
		{"the first is silent", time.Second, true, second, true, second, []string{"address_left"}},
		{"still", 2 * time.Second, true, second, false, second, nil},
		{"it answers", 4 * time.Second, false, none, false, second, nil},
	} {
		t.Run(step.name, func(t *testing.T) {
			now := noon.Add(step.after)
			s.Learn("b", now, at(now, step.silent))
			s.Learn("b", now, at(now, step.silent))
			var want []string
			if step.news {
				want = []string{fmt.Sprint("b via ", step.told, " by user false")}
			}
			if got := e.take(); !slices.Equal(got, want) || inUse() != step.inUse {
				t.Errorf("%q, want %q; in use %s", got, want, inUse())
			}
			if got := log.Take(); !slices.Equal(got, step.event) {
				t.Errorf("logged %q", got)
			}
		})
	}
	t.Run("time goes by", func(t *testing.T) {
		s.Heed(noon.Add(33 * time.Second))
		if got := e.take(); len(got) > 0 {
			t.Errorf("too early: %q", got)
		}
		s.Heed(noon.Add(34 * time.Second))
		if got := e.take(); !slices.Equal(got, []string{fmt.Sprint("b via ", none, " by user false")}) ||
			inUse() != first {
			t.Errorf("%q, in use %s", got, inUse())
		}
		if got := log.Take(); !slices.Equal(got, []string{"address_preferred"}) {
			t.Errorf("logged %q", got)
		}
	})
}

// The engine hears which peers carry shared prefixes, with each plan and with each change.
func TestCarriersAreFollowed(t *testing.T) {
	s, e, p, r, log := newSteerer()
	p.Set(probe.Settings{Peers: []string{"b", "c"}, Interval: time.Second})
	m := mesh.Mesh{Self: "a", Peers: []mesh.Peer{{Name: "a"}, {Name: "b"}, {Name: "c"}}, Shares: []mesh.Share{
		{Prefix: prefix, Carriers: []mesh.Carrier{{Peer: "b"}, {Peer: "c"}}}}}
	s.Follow(m, noon)
	s.Learn("c", noon, func(f *peers.Facts) { f.Asked, f.State = true, peers.Up })
	down := func(f *peers.Facts) { f.Asked, f.State = true, peers.Down }
	s.Learn("b", noon, down)
	s.Learn("b", noon, down)
	s.Follow(m, noon)
	var got []string
	for _, one := range e.take() {
		if one[:3] == "192" {
			got = append(got, one)
		}
	}
	want := []string{"192.168.7.0/24 by b", "192.168.7.0/24 by c", "192.168.7.0/24 by c"}
	if events := log.Take(); !slices.Equal(got, want) || !slices.Equal(events, []string{"carrier_changed"}) {
		t.Errorf("%q, logged %q", got, events)
	}
	m.Peers = m.Peers[:1]
	m.Shares = nil
	s.Follow(m, noon)
	if got := e.take(); len(got) > 0 || r.Of("b").Asked {
		t.Errorf("%q, %+v", got, r.Of("b"))
	}
}

// Many peers whose packets go elsewhere at the same moment are two lines: the first, and all others.
func TestUplinkIsFewLines(t *testing.T) {
	s, _, _, _, log := newSteerer()
	for i := range 1000 {
		s.Learn(fmt.Sprint("n", i), noon, at(noon, true))
	}
	s.Heed(noon.Add(time.Second))
	if got := log.Take(); !slices.Equal(got, []string{"address_left", "address_left"}) {
		t.Errorf("logged %d: %.200q", len(got), got)
	}
}

// What this host does not let out is learned of the peers that were asked, and of no others.
func TestForbidden(t *testing.T) {
	s, e, _, _, _ := newSteerer()
	questions := []probe.Question{{Peer: "b"}, {Peer: "c"}}
	err := errors.Join(&dataplane.EchoError{Peer: "b", Err: unix.EPERM}, &dataplane.EchoError{Peer: "d",
		Err: unix.EPERM})
	for range 2 {
		s.Forbidden(questions, err, noon)
	}
	s.Forbidden(questions, nil, noon)
	want := []string{fmt.Sprint("b via ", netip.AddrPort{}, " by user true"),
		fmt.Sprint("b via ", netip.AddrPort{}, " by user false")}
	if got := e.take(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// unheard is that nothing was heard.
func unheard(names []string) []time.Time { return make([]time.Time, len(names)) }
