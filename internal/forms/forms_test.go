package forms

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/probe"
)

// fakeEngine keeps what it is to send, call by call.
type fakeEngine struct {
	leaving dataplane.Leaving
	calls   [][]dataplane.Echo
	refuses func(dataplane.Echo) error // may be nil
}

func (e *fakeEngine) SendEcho(es ...dataplane.Echo) error {
	e.calls = append(e.calls, es)
	var errs []error
	for i, one := range es {
		if e.refuses != nil && e.refuses(one) != nil {
			errs = append(errs, &dataplane.EchoError{Peer: one.Peer, Index: i, Err: e.refuses(one)})
		}
	}
	return errors.Join(errs...)
}
func (e *fakeEngine) Heard(string) time.Time                { return time.Time{} }
func (e *fakeEngine) HeardBy(names ...string) []peers.Heard { return make([]peers.Heard, len(names)) }
func (e *fakeEngine) Leaving() dataplane.Leaving            { return e.leaving }

// failing is an engine that sends nothing at all.
type failing struct {
	*fakeEngine
	err error
}

func (e failing) SendEcho(...dataplane.Echo) error { return e.err }

var noon = time.Unix(1e9, 0)

// Each form leaves with the property that it is about, and with no other.
func TestSend(t *testing.T) {
	all := []probe.Question{
		{Peer: "b"}, {Peer: "b", Form: probe.Data}, {Peer: "b", Form: probe.Large},
		{Peer: "b", Form: probe.Marked, DSCP: 46}, {Peer: "b", Form: probe.Forwarded}, {Peer: "c"},
	}
	for _, test := range []struct {
		name               string
		noChecksum, spread bool
	}{{"user engine", false, false}, {"programs", true, false}, {"programs, spread", true, true}} {
		t.Run(test.name, func(t *testing.T) {
			e := &fakeEngine{leaving: dataplane.Leaving{NoChecksum: test.noChecksum}}
			s := &Sender{}
			s.Configure(test.spread, 1472)
			if trait, news := s.Trait(e, noon); !news || trait.Data != (test.noChecksum || test.spread) {
				t.Errorf("%+v, %v", trait, news)
			}
			if unsent, err := s.Send(e, all); len(unsent) > 0 || err != nil {
				t.Errorf("%v, %v", unsent, err)
			}
			want := []dataplane.Echo{
				{Peer: "b"}, {Peer: "b", NoChecksum: test.noChecksum, Spread: test.spread}, {Peer: "b"},
				{Peer: "b", DSCP: 46}, {Peer: "b", Forwarded: true}, {Peer: "c"},
			}
			equal := func(a, b dataplane.Echo) bool {
				return a.Peer == b.Peer && a.NoChecksum == b.NoChecksum && a.Spread == b.Spread && a.DSCP == b.DSCP &&
					a.Forwarded == b.Forwarded
			}
			if got := slices.Concat(e.calls...); !slices.EqualFunc(got, want, equal) || len(e.calls) != 1 {
				t.Errorf("%d calls: %+v\nwant %+v", len(e.calls), got, want)
			}
		})
	}
}

// A form that the host itself refuses says nothing of the path; a plain one counts.
func TestUnsent(t *testing.T) {
	refused := errors.New("message too long")
	e := &fakeEngine{refuses: func(e dataplane.Echo) error {
		if len(e.Payload) > 100 || e.Peer == "c" {
			return refused
		}
		return nil
	}}
	large := probe.Question{Peer: "b", Form: probe.Large, Payload: make([]byte, 1444)}
	all := []probe.Question{{Peer: "b"}, large, {Peer: "b", Form: probe.Marked}, {Peer: "c"}}
	unsent, err := (&Sender{}).Send(e, all)
	if !errors.Is(err, refused) || len(unsent) != 1 || unsent[0].Form != probe.Large {
		t.Errorf("%v, %v", unsent, err)
	}
	none := errors.New("no packet loop runs")
	unsent, err = (&Sender{}).Send(failing{e, none}, all)
	if !errors.Is(err, none) || len(unsent) != 2 || unsent[0].Form != probe.Large ||
		unsent[1].Form != probe.Marked {
		t.Errorf("without an engine: %v, %v", unsent, err)
	}
}

// DSCP values are probed for some time after pods have used them.
func TestTraitRemembers(t *testing.T) {
	e, s := &fakeEngine{}, &Sender{}
	for _, step := range []struct {
		name string
		at   time.Duration
		seen uint64
		news bool
		want uint64
	}{
		{"nothing yet", 0, 0, true, 0},
		{"a value", time.Second, 1 << 46, true, 1 << 46},
		{"too soon", 1500 * time.Millisecond, 1 << 10, false, 0},
		{"another value", 2 * time.Second, 1 << 10, true, 1<<46 | 1<<10},
		{"none for long", remember, 0, true, 1<<46 | 1<<10},
		{"the first is forgotten", remember + time.Second, 0, true, 1 << 10},
		{"both are", time.Hour, 0, true, 0},
	} {
		t.Run(step.name, func(t *testing.T) {
			e.leaving.DSCP = step.seen
			if trait, news := s.Trait(e, noon.Add(step.at)); trait.DSCP != step.want || news != step.news {
				t.Errorf("%x, %v, want %x, %v", trait.DSCP, news, step.want, step.news)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	node := func(subnets ...string) (p mesh.Peer) {
		for _, s := range subnets {
			p.Subnets = append(p.Subnets, netip.MustParsePrefix(s))
		}
		return p
	}
	const v4, v6 = "10.1.0.0/24", "fd00::/64"
	sizes4 := probe.Sizes{Least: 548, Most: 1444, Headers: 28}
	sizes6 := probe.Sizes{Least: 528, Most: 1424, Headers: 48}
	for _, test := range []struct {
		name       string
		self, peer mesh.Peer
		want       probe.Bounds
	}{
		{"IPv4", node(v4), node(v4), probe.Bounds{Sizes: sizes4, Forwarded: true}},
		{"IPv6", node(v6), node(v6), probe.Bounds{Sizes: sizes6, Forwarded: true}},
		{"both families", node(v4, v6), node(v4, v6), probe.Bounds{Sizes: sizes4, Forwarded: true}},
		{"only IPv6 in common", node(v4, v6), node(v6), probe.Bounds{Sizes: sizes6, Forwarded: true}},
		{"a peer of one address", node(v4), node("10.1.0.1/32"), probe.Bounds{Sizes: sizes4}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Bounds(test.self, test.peer, 1472, false); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
			// Encrypted, only the size of meshds' packets is measured: others are rate limited.
			test.want.Sizes.Meshd = true
			if got := Bounds(test.self, test.peer, 1472, true); got != test.want {
				t.Errorf("encrypted %+v, want %+v", got, test.want)
			}
		})
	}
}

// Facts follow the reports of probes, form by form.
func TestUpdate(t *testing.T) {
	e, s := &fakeEngine{leaving: dataplane.Leaving{NoChecksum: true}}, &Sender{}
	s.Configure(false, 1472)
	s.Trait(e, noon)
	var r probe.Report
	for i, f := range probe.Forms() {
		r.Forms[i] = probe.FormReport{Form: f, Fails: true, DSCP: 46}
	}
	r.Recent, r.NotHeard = probe.Loss{Probes: 30, Lost: 2, Runs: 1}, true
	r.Size = probe.Size{InUse: 1252, Least: 576, Most: 1400, Proven: true}
	var f peers.Facts
	s.Update(&f, r)
	want := peers.Facts{NotHeard: true, Recent: peers.Loss{Probes: 30, Lost: 2, Runs: 1},
		Loses: peers.Loses{NoChecksum: true, DSCP: 46, Forwarded: true},
		Path:  peers.PathMTU{InUse: 1252, Least: 576, Most: 1400, Interface: 1472, Proven: true}}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("%+v, want %+v", f, want)
	}
	s.Update(&f, probe.Report{})
	if !reflect.DeepEqual(f, peers.Facts{}) {
		t.Errorf("%+v", f)
	}
}
