package auto

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/kernel"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

const ipsec = "an IPsec policy covers a node"

// Programs come before queues; the other way in a takeover, in which packets wait already.
func TestOrder(t *testing.T) {
	for _, c := range []struct {
		name     string
		takeover bool
		use      dataplane.Use
		want     []string
	}{
		{"programs", false, dataplane.Always, []string{"kernel.apply", "user.apply"}},
		{"programs if possible", false, dataplane.IfPossible, []string{"kernel.apply", "user.apply"}},
		{"no programs", false, dataplane.Never, []string{"kernel.remove", "user.apply"}},
		{"programs in a takeover", true, dataplane.Always, []string{"user.apply", "kernel.apply"}},
		{"no programs in a takeover", true, dataplane.Never, []string{"user.apply", "kernel.remove"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.user.adopts = c.takeover
			w := wanting(c.use, "")
			if a, _ := r.Adopt(nil, w); a.Moving() != c.takeover {
				t.Errorf("adopted %+v", a)
			}
			if _, err := r.Prepare(t.Context(), w); err != nil {
				t.Fatal(err)
			}
			r.did("user.prepare", "kernel.prepare")
			if _, changes, err := r.Apply(t.Context(), w); err != nil || len(changes) == 0 {
				t.Errorf("%v, %v", changes, err)
			}
			r.did(c.want...)
			if _, _, err := r.Apply(t.Context(), w); err != nil { // what was left is ours by now
				t.Error(err)
			}
			if first := r.journal[0]; first == "user.apply" {
				t.Errorf("did %q the second time", r.journal)
			}
		})
	}
}

// Programs that are wanted are loaded ahead. If that fails, there is nothing to undo, and Apply tells why.
func TestLoad(t *testing.T) {
	for _, c := range []struct {
		name  string
		use   dataplane.Use
		fails fail
		want  []string
	}{
		{"programs", dataplane.Always, nil, []string{"kernel.load", "undo kernel.load"}},
		{"programs if possible", dataplane.IfPossible, nil, []string{"kernel.load", "undo kernel.load"}},
		{"no programs", dataplane.Never, nil, nil},
		{"they cannot be loaded", dataplane.Always, fail{"kernel.load": errPrograms}, []string{"kernel.load"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.kernel.fails = c.fails
			if err := r.Load(t.Context(), wanting(c.use, ""))(); err != nil {
				t.Error(err)
			}
			r.did(c.want...)
		})
	}
}

// Programs send in the clear, so they go before anything else is done, whatever a plan says of them. If a
// later step fails, they are back.
func TestSealed(t *testing.T) {
	open, sealed := wanting(dataplane.IfPossible, ""), wanting(dataplane.Always, "")
	sealed.Sealed = true
	for _, c := range []struct {
		name   string
		before *dataplane.Wanted
		fails  fail
		did    []string
		failed bool
	}{
		{"at a start", nil, nil, []string{"kernel.remove", "user.prepare", "kernel.remove", "user.apply"}, false},
		{"live", &open, nil, []string{"kernel.remove", "user.prepare", "kernel.remove", "user.apply"}, false},
		{"programs stay", &open, fail{"kernel.remove": errPrograms}, []string{"kernel.remove", "kernel.apply"},
			true},
		{"the port is taken", &open, fail{"user.prepare": errPrograms},
			[]string{"kernel.remove", "user.prepare", "kernel.apply"}, true},
		{"the port is taken at a start", nil, fail{"user.prepare": errPrograms},
			[]string{"kernel.remove", "user.prepare", "kernel.remove"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			if c.before != nil {
				r.apply(*c.before)
			}
			for call, err := range c.fails {
				r.fails[call] = err
			}
			_, err := r.Prepare(t.Context(), sealed)
			if err == nil {
				r.user.reading.Works = dataplane.Works{Engine: dataplane.EngineWireGuard}
				r.works("wireguard", "")
				if undo := r.Load(t.Context(), sealed); undo() != nil {
					t.Error("a program was loaded")
				}
				_, _, err = r.Apply(t.Context(), sealed)
			}
			if failed := err != nil; failed != c.failed || r.kernel.reading.Forwards != (failed && c.before != nil) {
				t.Errorf("%v, programs forward: %v", err, r.kernel.reading.Forwards)
			}
			r.did(c.did...)
			r.told()
		})
	}
}

// Whether programs forward, and what status and the log say about it.
func TestChoice(t *testing.T) {
	for _, c := range []struct {
		name           string
		wanted         dataplane.Wanted
		fails          error
		engine, reason string
		told           []string
	}{
		{name: "the file wants programs", wanted: wanting(dataplane.Always, ""), engine: "kernel"},
		{name: "programs are possible", wanted: wanting(dataplane.IfPossible, ""), engine: "kernel"},
		{name: "programs are impossible", wanted: wanting(dataplane.IfPossible, ""), fails: errPrograms,
			engine: "user", reason: errPrograms.Error(), told: []string{"warn user_engine"}},
		{name: "the host forbids programs", wanted: wanting(dataplane.Never, ipsec),
			engine: "user", reason: ipsec, told: []string{"info user_engine"}},
		{name: "the file wants no programs",
			wanted: dataplane.Wanted{Kernel: dataplane.Programs{Chosen: true, Why: "the file says so"}},
			engine: "user", reason: "the file says so"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.fails["kernel.apply"] = c.fails
			r.user.reading.Works = dataplane.Works{Engine: "user", Receive: dataplane.Socket}
			for range 2 { // each reason is told once
				if _, _, err := r.Apply(t.Context(), c.wanted); err != nil {
					t.Fatal(err)
				}
				r.works(c.engine, c.reason)
				r.told(c.told...)
				c.told = nil
			}
		})
	}
}

// Where the file insists on programs, their fault is one of the whole.
func TestProgramsAreRequired(t *testing.T) {
	for call, undone := range map[string][]string{
		"kernel.prepare": {"user.prepare", "kernel.prepare", "undo user.prepare"},
		"kernel.apply":   {"user.prepare", "kernel.prepare", "kernel.apply"},
	} {
		t.Run(call, func(t *testing.T) {
			r := newRig(t)
			r.fails[call] = errPrograms
			w := wanting(dataplane.Always, "")
			_, err := r.Prepare(t.Context(), w)
			if err == nil {
				_, _, err = r.Apply(t.Context(), w)
			}
			if !errors.Is(err, errPrograms) {
				t.Error(err)
			}
			r.did(undone...)
			r.told()
		})
	}
}

// Programs that come back are told of, once.
func TestProgramsComeBack(t *testing.T) {
	r := newRig(t)
	r.user.reading.Works.Engine = "user"
	w := wanting(dataplane.IfPossible, "")
	r.fails["kernel.apply"] = errPrograms
	r.apply(w)
	delete(r.fails, "kernel.apply")
	for _, told := range [][]string{{"info kernel_engine"}, nil} {
		if _, _, err := r.Apply(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		r.works("kernel", "")
		r.told(told...)
	}
}

// A mesh that the maps have no room for makes the user engine forward everything, at once: programs
// must not forward by the mesh before.
func TestTablesDoNotFit(t *testing.T) {
	r := newRig(t)
	r.user.reading.Works.Engine = "user"
	w := wanting(dataplane.IfPossible, "")
	r.apply(w)
	r.fails["kernel.prepare"] = errPrograms
	undo, err := r.Prepare(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	r.did("user.prepare", "kernel.prepare", "kernel.remove")
	r.works("user", errPrograms.Error())
	r.told("warn user_engine")
	if err := undo(); err != nil {
		t.Error(err)
	}
	r.did("kernel.apply", "undo user.prepare")
	r.works("kernel", "")
}

// Undo returns to what was in force, whatever the change was.
func TestUndo(t *testing.T) {
	programs, perhaps, none := wanting(dataplane.Always, ""), wanting(dataplane.IfPossible, ""),
		wanting(dataplane.Never, ipsec)
	come := []string{"kernel.apply", "user.apply", "undo user.apply", "undo kernel.apply"}
	for _, c := range []struct {
		name          string
		before, after *dataplane.Wanted
		fails         error
		engine        string
		want          []string
	}{
		{"programs come", &none, &programs, nil, "user", come},
		{"programs stay", &programs, &programs, nil, "kernel", come},
		{"programs go", &programs, &none, nil, "kernel",
			[]string{"kernel.remove", "user.apply", "undo user.apply", "kernel.apply"}},
		{"programs fall back", &programs, &perhaps, errPrograms, "kernel",
			[]string{"kernel.apply", "kernel.remove", "user.apply", "undo user.apply", "kernel.apply"}},
		{"the first", nil, &programs, nil, "user", come},
		{"the first without", nil, &none, nil, "user",
			[]string{"kernel.remove", "user.apply", "undo user.apply", "kernel.remove"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.user.reading.Works.Engine = "user"
			if c.before != nil {
				r.apply(*c.before)
			}
			before := r.Read().Works
			r.fails["kernel.apply"] = c.fails
			undo, _, err := r.Apply(t.Context(), *c.after)
			if err != nil {
				t.Fatal(err)
			}
			delete(r.fails, "kernel.apply")
			if err := undo(); err != nil {
				t.Error(err)
			}
			r.did(c.want...)
			if after := r.Read().Works; !reflect.DeepEqual(after, before) || after.Engine != c.engine {
				t.Errorf("%+v, before %+v", after, before)
			}
		})
	}
}

// If the user engine cannot, the programs are undone, too.
func TestUserEngineFails(t *testing.T) {
	for name, c := range map[string]struct {
		takeover bool
		want     []string
	}{
		"at first":      {false, []string{"kernel.apply", "user.apply", "undo kernel.apply"}},
		"in a takeover": {true, []string{"user.apply"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.user.adopts = c.takeover
			r.Adopt(nil, dataplane.Wanted{})
			r.fails["user.apply"] = errPrograms
			_, _, err := r.Apply(t.Context(), wanting(dataplane.Always, ""))
			if !errors.Is(err, errPrograms) {
				t.Error(err)
			}
			r.did(c.want...)
		})
	}
}

// Programs that cannot be taken away would forward beside the user engine: that is no fall back.
func TestProgramsStay(t *testing.T) {
	stuck := errors.New("device or resource busy")
	for name, w := range map[string]dataplane.Wanted{
		"never": wanting(dataplane.Never, ipsec), "if possible": wanting(dataplane.IfPossible, ""),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.fails["kernel.apply"], r.fails["kernel.remove"] = errPrograms, stuck
			if _, _, err := r.Apply(t.Context(), w); !errors.Is(err, stuck) {
				t.Error(err)
			}
			r.told()
		})
	}
}

// What is counted is the sum, for the peers that there are; totals have the others, too.
func TestRead(t *testing.T) {
	r := newRig(t)
	early, late := time.Unix(100, 0), time.Unix(200, 0)
	r.user.reading = dataplane.Reading{
		Totals: mesh.Traffic{RxPackets: 5}, Lost: dataplane.Lost{Socket: 3},
		Peers: map[string]mesh.Traffic{"b": {RxPackets: 4, LastSeen: late}, "c": {}},
		Works: dataplane.Works{Engine: "user", Receive: dataplane.Socket, Queues: 2},
	}
	r.kernel.reading = kernel.Reading{
		Totals: mesh.Traffic{RxPackets: 70}, Overflow: 9, Handed: map[string]uint64{"unusual": 1},
		Peers:   map[string]mesh.Traffic{"b": {RxPackets: 60, LastSeen: early}, "gone": {RxPackets: 10}},
		Receive: dataplane.TCX, Refused: "eth0: no native XDP", Captured: true,
	}
	want := dataplane.Reading{
		Totals: mesh.Traffic{RxPackets: 75},
		Lost:   dataplane.Lost{Socket: 3, Merger: 9}, Handed: map[string]uint64{"unusual": 1},
		Peers: map[string]mesh.Traffic{"b": {RxPackets: 64, LastSeen: late}, "c": {}},
		Works: dataplane.Works{Engine: "user", Receive: dataplane.Socket, Queues: 2},
	}
	if got := r.Read(); !reflect.DeepEqual(got, want) {
		t.Errorf("without programs %+v\nwant %+v", got, want)
	}
	r.user.reading.Peers = map[string]mesh.Traffic{"b": {RxPackets: 4, LastSeen: late}, "c": {}}
	r.kernel.reading.Forwards = true
	want.Works = dataplane.Works{Engine: "kernel", Reason: "eth0: no native XDP", Receive: dataplane.TCX,
		Captured: true, Queues: 2}
	if got := r.Read(); !reflect.DeepEqual(got, want) {
		t.Errorf("with programs %+v\nwant %+v", got, want)
	}
}

// A peer was heard when either engine heard it.
func TestHeard(t *testing.T) {
	early, late := time.Unix(100, 0), time.Unix(200, 0)
	for name, c := range map[string]struct{ user, kernel, want time.Time }{
		"never":           {},
		"by the programs": {early, late, late},
		"by user space":   {late, early, late},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.user.heard, r.kernel.heard = c.user, c.kernel
			if got := r.Heard("b"); !got.Equal(c.want) {
				t.Error(got)
			}
		})
	}
}

// What is known of a peer is for both engines, and a fault of one keeps nothing from the other.
func TestLearn(t *testing.T) {
	r := newRig(t)
	if err := r.Learn("b", peers.Directive{Finishes: true}); err != nil {
		t.Error(err)
	}
	r.fails["user.learn"] = errPrograms
	if err := r.Learn("b", peers.Directive{}); !errors.Is(err, errPrograms) {
		t.Error(err)
	}
	r.did("user.learn", "kernel.learn", "user.learn", "kernel.learn")
	r.told("error tables_failed")
}

// Who carries a prefix is for both engines, too.
func TestCarry(t *testing.T) {
	r := newRig(t)
	lan := netip.MustParsePrefix("192.168.0.0/16")
	if err := r.Carry(lan, "b"); err != nil {
		t.Error(err)
	}
	r.fails["user.carry"] = errPrograms
	if err := r.Carry(lan, "c"); !errors.Is(err, errPrograms) {
		t.Error(err)
	}
	r.did("user.carry", "kernel.carry", "user.carry", "kernel.carry")
	r.told("error tables_failed")
}

// What concerns one engine alone goes to that one.
func TestPassedOn(t *testing.T) {
	r := newRig(t)
	if err := errors.Join(r.Alive(t.Context()), r.SendEcho(), r.Stop(), r.Close()); err != nil {
		t.Error(err)
	}
	r.Look()
	r.did("user.alive", "user.echo", "user.stop", "kernel.stand in", "user.close", "kernel.watch",
		"kernel.merger")
	if all := r.Conditions(); !mesh.Has(all, mesh.SmallBuffers) || !mesh.Has(all, mesh.Unpinned) {
		t.Errorf("%v", all)
	}
}
