package known

import (
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/ping"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/plan/plantest"
	"example.org/meshd/internal/probe"
)

// file is a mesh of three nodes; this host is a.
const file = plantest.File

// moved is the file with another address of b.
var moved = strings.ReplaceAll(file, "172.18.0.3", "172.18.0.33")

// pass lets time pass, and all that happens in it.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// neighbours answer probes as the meshd of peer b does, and as flannel at peer c, which repeats them.
type neighbours struct {
	probes  *Probes
	b       *probe.Prober
	silent  bool // nobody answers
	answers time.Duration
	learned []string
	refuses error // to learn, and to send
}

func (n *neighbours) Heard(string) time.Time                { return time.Time{} }
func (n *neighbours) HeardBy(names ...string) []peers.Heard { return make([]peers.Heard, len(names)) }
func (n *neighbours) Leaving() dataplane.Leaving            { return dataplane.Leaving{} }
func (n *neighbours) Carry(mesh.Prefix, string) error       { return n.refuses }

func (n *neighbours) Learn(peer string, d peers.Directive) error {
	if d.Finishes {
		peer += " finishes"
	}
	n.learned = append(n.learned, peer)
	return n.refuses
}

func (n *neighbours) SendEcho(echoes ...dataplane.Echo) error {
	if n.refuses != nil || n.silent {
		return n.refuses
	}
	for _, e := range echoes {
		payload := slices.Clone(e.Payload)
		if e.Peer == "b" {
			payload, _ = n.b.Answer("a", e.Via, false, payload, time.Now())
		}
		e.Reply, e.Payload = true, payload
		time.AfterFunc(n.answers, func() { n.probes.Hear(e, time.Now()) })
	}
	return nil
}

// newNeighbours returns probes of node a among its neighbours, which run a file.
func newNeighbours(theirs *plan.Plan) (*neighbours, *nstest.Events) {
	log := &nstest.Events{}
	n := &neighbours{b: probe.New(unheard), answers: time.Millisecond}
	n.probes = New(slog.New(log), "1.2.3", peers.New())
	self := selfOf(theirs, "9.9")
	n.b.Introduce(self)
	n.probes.Engine = n
	return n, log
}

// round lets a probe be answered, and concludes.
func (n *neighbours) round(t *testing.T) {
	t.Helper()
	for range 2 {
		questions, changes := n.probes.Work(time.Now())
		n.probes.tell(changes)
		for _, q := range questions {
			if err := n.SendEcho(dataplane.Echo{Peer: q.Peer, ID: q.ID, Seq: q.Seq, Payload: q.Payload}); err != nil {
				t.Error(err)
			}
		}
		pass(2 * time.Second)
	}
	_, changes := n.probes.Work(time.Now())
	n.probes.tell(changes)
}

// Peers are asked once the plan is in force; what follows from answers is learned by the engine, and
// told.
func TestProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := plantest.Make(t, file)
		n, log := newNeighbours(p)
		_, commit := n.probes.Apply(p)
		if n.probes.Self() != selfOf(p, "1.2.3") {
			t.Fatalf("%+v", n.probes.Self())
		}
		if questions, _ := n.probes.Work(time.Now()); len(questions) > 0 {
			t.Error("peers are asked before the plan is in force")
		}
		commit()
		pass(time.Minute)
		n.round(t)
		if got := n.probes.registry.Of("b"); got.State != peers.Up || !got.Asked || !got.Meshd {
			t.Errorf("%+v", got)
		}
		if !slices.Contains(n.learned, "b finishes") || slices.Contains(n.learned, "c finishes") {
			t.Errorf("the engine learned %q", n.learned)
		}
		got := log.Take()
		if slices.Sort(got); !slices.Contains(got, "peer_up") || !slices.Contains(got, "peer_file_matches") {
			t.Errorf("logged %q", got)
		}
		status := control.Peer{Name: "b"}
		n.probes.Fill(&status, p)
		if status.State != control.Up || status.Since == nil || status.RTTMS == nil || status.Version != "9.9" ||
			status.ConfigMatch == nil || !*status.ConfigMatch {
			t.Errorf("%+v", status)
		}

		n.silent = true
		for range 10 {
			n.round(t)
		}
		if got := n.probes.registry.Of("b"); got.State != peers.Down || !got.Meshd {
			t.Errorf("it does not answer any more: %+v", got)
		}
		if got := log.Take(); !slices.Contains(got, "peer_stale") || !slices.Contains(got, "peer_down") {
			t.Errorf("logged %q", got)
		}
	})
}

// A neighbour with another file is told, with its file.
func TestProbesOfAnotherFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := plantest.Make(t, file)
		n, log := newNeighbours(plantest.Make(t, moved))
		_, commit := n.probes.Apply(p)
		commit()
		pass(time.Minute)
		n.round(t)
		if got := log.Take(); !slices.Contains(got, "peer_file_differs") {
			t.Errorf("logged %q", got)
		}
		status := control.Peer{Name: "b"}
		if n.probes.Fill(&status, p); status.ConfigMatch == nil || *status.ConfigMatch {
			t.Errorf("%+v", status)
		}
	})
}

// A file that differs only in its text is the same file, unless the neighbour does not tell its meaning.
func TestProbesOfTheSameMeaning(t *testing.T) {
	for _, test := range []struct {
		name    string
		forgets bool // the neighbour is a meshd that tells no meaning
		match   bool
		event   string
	}{
		{"told", false, true, "peer_file_matches"},
		{"not told", true, false, "peer_file_differs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := plantest.Make(t, file)
				n, log := newNeighbours(plantest.Make(t, file+"# a comment\n"))
				if self := n.b.Self(); test.forgets {
					self.Meaning = probe.Meaning{}
					n.b.Introduce(self)
				}
				_, commit := n.probes.Apply(p)
				commit()
				pass(time.Minute)
				n.round(t)
				if got := log.Take(); !slices.Contains(got, test.event) {
					t.Errorf("logged %q", got)
				}
				status := control.Peer{Name: "b"}
				n.probes.Fill(&status, p)
				if status.ConfigMatch == nil || *status.ConfigMatch != test.match ||
					status.ConfigSHA256 == p.Config.SHA256() {
					t.Errorf("%+v", status)
				}
			})
		})
	}
}

// A plan that is not put in force leaves nothing of it.
func TestProbesAreUndone(t *testing.T) {
	n, _ := newNeighbours(plantest.Make(t, file))
	for _, doc := range []string{file, moved} {
		before, p := n.probes.Self(), plantest.Make(t, doc)
		undo, commit := n.probes.Apply(p)
		// Only a node that has named no file yet names one before it is in force.
		if named := n.probes.Self() != before; named != (before.Hash == [32]byte{}) {
			t.Errorf("%+v", n.probes.Self())
		}
		if err := undo(); err != nil || n.probes.Self() != before {
			t.Errorf("%+v, %v, want %+v", n.probes.Self(), err, before)
		}
		if commit(); n.probes.Self().Hash != p.Config.Sum {
			t.Errorf("%+v", n.probes.Self())
		}
	}
}

// Peers that leave the file are forgotten, and without an interval nobody is asked.
func TestFollow(t *testing.T) {
	n, _ := newNeighbours(plantest.Make(t, file))
	for _, name := range []string{"b", "c", "gone"} {
		n.probes.Learn(name, func(f *peers.Facts) { f.Asked, f.Meshd = true, true })
	}
	off := plantest.Make(t, "probe = {interval = \"0s\"}\n"+file)
	n.probes.Follow(off)
	for name, want := range map[string]peers.Facts{"b": {Meshd: true}, "c": {Meshd: true}, "gone": {}} {
		if got := n.probes.registry.Of(name); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	if questions, _ := n.probes.Work(time.Now()); len(questions) > 0 {
		t.Errorf("%d are asked", len(questions))
	}
}

// The engine learns of a peer what is news, also where it refuses.
func TestLearn(t *testing.T) {
	n, _ := newNeighbours(plantest.Make(t, file))
	n.refuses = errors.New("the table is full")
	for range 2 {
		n.probes.Learn("b", func(f *peers.Facts) { f.Heard = time.Now() })
	}
	n.probes.Learn("b", func(f *peers.Facts) { f.Meshd = true })
	if want := []string{"b", "b finishes"}; !slices.Equal(n.learned, want) {
		t.Errorf("%q, want %q", n.learned, want)
	}
}

func TestPing(t *testing.T) {
	for _, test := range []struct {
		name   string
		ask    control.PingRequest
		silent bool
		fails  error
		there  bool
		bad    bool // the question is
		size   int
		rtt    bool
		said   bool // why it could not be sent
	}{
		{name: "a peer", ask: control.PingRequest{Peer: "b"}, there: true, size: probe.PayloadSize + 28, rtt: true},
		{name: "as large as fits", ask: control.PingRequest{Peer: "b", Size: 1472 - 28}, there: true,
			size: 1472, rtt: true},
		{name: "larger", ask: control.PingRequest{Peer: "b", Size: 1472 - 27}, bad: true},
		{name: "of a negative size", ask: control.PingRequest{Peer: "b", Size: -1}, bad: true},
		{name: "for too long", ask: control.PingRequest{Peer: "b", TimeoutMS: 10_001}, bad: true},
		{name: "for no time", ask: control.PingRequest{Peer: "b", TimeoutMS: -1}, bad: true},
		{name: "nobody", ask: control.PingRequest{Peer: "nobody"}},
		{name: "no answer", ask: control.PingRequest{Peer: "b", TimeoutMS: 50}, silent: true, there: true,
			size: probe.PayloadSize + 28},
		{name: "no route", ask: control.PingRequest{Peer: "b"}, fails: unix.ENETUNREACH, there: true,
			size: probe.PayloadSize + 28, said: true},
		{name: "a narrow path", ask: control.PingRequest{Peer: "b"}, fails: unix.EMSGSIZE, there: true,
			size: probe.PayloadSize + 28, said: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := plantest.Make(t, file)
				n, _ := newNeighbours(p)
				n.probes.Follow(p)
				n.silent, n.refuses = test.silent, test.fails
				got, there, err := ping.Ask(t.Context(), p, n.probes.Prober, n, test.ask)
				if (err != nil) != test.bad || there != test.there {
					t.Fatalf("%v, %v", there, err)
				}
				if got.Size != test.size || (got.RTTMS != nil) != test.rtt || (got.Error != "") != test.said {
					t.Errorf("%+v", got)
				}
				if test.rtt && *got.RTTMS != 1 {
					t.Errorf("%v ms", *got.RTTMS)
				}
				pass(time.Second)
			})
		})
	}
}

var _ Engine = (*neighbours)(nil)

// unheard is that nothing was heard.
func unheard(names []string) []time.Time { return make([]time.Time, len(names)) }
