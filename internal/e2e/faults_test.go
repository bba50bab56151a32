package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/nstest"
)

// `make chaos` brings all faults about and writes the page, which takes half an hour.
var (
	faultPage  = flag.String("faults", "", "write the table of faults into this `file`")
	faultNames = flag.String("faults.only", "",
		"bring about only the faults whose name matches this `expression`")
	faultKinds = flag.String("faults.engines", "user kernel sealed", "with which engines")
)

// A fault is something that happens to worker2, or to the network, while pods talk.
type fault struct {
	name string
	// begin brings it about; what it returns takes it back, as whoever runs the host would, or the world does.
	// All that meshd has to do about it, it does by itself.
	begin func(r *faultRig) (end func())
	lasts time.Duration
	// kinds are those of which worker2, or a peer of it, has to tell one while it lasts, however long that
	// takes. None: it is over, or harmless, before anybody has to know.
	kinds []string
	only  string // engine that it is about; empty: each
	named bool   // worker has a name of DNS in the file
	brief bool   // it takes seconds, so every run of the tests has it
	// astray tells that root has led pods' packets elsewhere, which meshd obeys unless the mesh is encrypted.
	astray bool
}

// A faultRig is the reference's mesh, with one engine, for one fault after the other.
type faultRig struct {
	*sealed
	whole   testing.TB // the test that all faults are in, with which daemons end
	engine  string     // user, kernel, sealed
	doc     string
	files   []string // of the hosts, each its own
	daemons []*nstest.Daemon
	open    []map[string]int // see opened
	port    int              // of the next stream
	bare    func()
	watch   *bareWatch // nil unless sealed
	hosts   string     // the file with worker's name, which all hosts' name servers read; empty: it has none
}

// hurt is the index of worker2 among the hosts.
const hurt = 2

func newFaultRig(t testing.TB, engine string, named bool) *faultRig {
	t.Helper()
	r := &faultRig{sealed: newSealed(t), whole: t, engine: engine, port: 7100}
	r.binary = shipped // how fast it is on its feet again is measured
	r.doc = demoFile(t)
	switch engine {
	case "user":
		r.doc += "[dataplane]\nengine = \"user\"\n"
	case "kernel":
		r.doc += "[dataplane]\nengine = \"kernel\"\n"
	default:
		r.doc = r.sealed.file()
		r.watch = r.watchBare("10.244.2.3", "10.244.1.2", "10.244.0.2")
	}
	if named {
		r.doc = strings.Replace(r.doc, `"172.18.0.4"`, `"worker.test"`, 1)
		r.hosts = filepath.Join(t.TempDir(), "hosts")
		r.names("172.18.0.4 worker.test\n")
		for _, h := range r.Hosts() {
			serveNames(t, h, filepath.Dir(r.hosts))
		}
	}
	if _, err := r.Lab.Host("router", "172.18.0.1/16"); err != nil {
		t.Fatal(err)
	}
	r.bare = r.watchedAnew()
	for i, h := range r.Hosts() {
		r.files = append(r.files, r.write(r.doc))
		if engine == "sealed" {
			r.helper(h)
		}
		r.daemons = append(r.daemons, r.boot(i))
	}
	return r
}

// names has all name servers tell other names.
func (r *faultRig) names(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.hosts, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// watchedAnew watches for packets of pods that leave a host bare from now on.
func (r *faultRig) watchedAnew() (check func()) {
	defer func(of testing.TB) { r.t = of }(r.t)
	r.t = r.whole
	return (&chaos{world: r.world, hosts: r.Hosts()}).watchRouter()
}

// boot starts the daemon of a host, as a service manager does, and does not wait.
func (r *faultRig) boot(i int) *nstest.Daemon {
	r.t.Helper()
	defer func(of testing.TB) { r.t = of }(r.t)
	r.t = r.whole
	if r.engine == "sealed" {
		return r.begin(r.Hosts()[i], r.files[i])
	}
	return r.start(r.Hosts()[i], r.files[i])
}

// reboot starts worker2's daemon again, which has ended.
func (r *faultRig) reboot() { r.daemons[hurt] = r.boot(hurt) }

func (r *faultRig) victim() *nstest.Daemon { return r.daemons[hurt] }

// signal signals worker2's daemon.
func (r *faultRig) signal(s syscall.Signal) {
	r.t.Helper()
	if err := syscall.Kill(r.victim().PID(), s); err != nil {
		r.t.Fatal(err)
	}
}

// edit gives worker2 another text.
func (r *faultRig) edit(doc string) { save(r.t, r.victim(), doc) }

// ask returns the status of a daemon; false: it does not answer now.
func (r *faultRig) ask(i int) (s control.Status, ok bool) {
	c := control.NewClient(r.daemons[i].Socket)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := c.Status(ctx)
	return s, err == nil
}

// well tells whether a daemon answers, has no problem, and reaches all.
func (r *faultRig) well(i int) (s control.Status, ok bool) {
	s, ok = r.ask(i)
	other := slices.DeleteFunc(problems(s), func(kind string) bool { return kind == "wireguard_user" }) // a hint
	return s, ok && len(other) == 0 && s.Health.Level == control.OK && len(s.Peers) == 2 &&
		!slices.ContainsFunc(s.Peers, func(p control.Peer) bool { return p.State != control.Up })
}

// settle waits until all daemons are well, and fails with what they say.
func (r *faultRig) settle(t testing.TB) {
	t.Helper()
	for i := range r.daemons {
		var s control.Status
		ok := false
		for deadline := time.Now().Add(4 * patience); !ok; time.Sleep(50 * time.Millisecond) {
			if s, ok = r.well(i); !ok && time.Now().After(deadline) {
				t.Fatalf("%s is not well: %s\n%+v", r.Hosts()[i].Name, r.daemons[i].State(), s.Health)
			}
		}
	}
}

// state is what meshd has in the kernel of each host, and how it moves packets.
func (r *faultRig) state(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for i, h := range r.Hosts() {
		s, _ := r.ask(i)
		fmt.Fprintf(&b, "%s: %s, %s\n%s\n", h.Name, s.Dataplane.Engine, s.Dataplane.Receive, kernelState(t, h))
		if r.engine == "sealed" {
			out, err := h.WG("show", "meshd-wg", "allowed-ips")
			routes, _ := h.Run("ip", "-o", "route", "show", "table", "all", "dev", "meshd-wg")
			lines := strings.Split(out+routes, "\n")
			slices.Sort(lines)
			fmt.Fprintln(&b, err, strings.Join(lines, "\n"))
		}
	}
	return b.String()
}

// programs returns the daemons, and the processes that encrypt, which no fault ends.
func (r *faultRig) programs() []*nstest.Daemon {
	all := slices.Clone(r.daemons)
	for _, h := range r.Hosts() {
		if helper := r.helpers[h]; helper != nil {
			all = append(all, helper)
		}
	}
	return all
}

// opened notes what each program has open before the first fault: what leaks with each adds up.
func (r *faultRig) opened(t testing.TB) {
	t.Helper()
	if r.open != nil {
		return
	}
	for _, d := range r.programs() {
		r.open = append(r.open, openKinds(t, d))
	}
}

// A faultRow is what one fault did with one engine.
type faultRow struct {
	fault, engine string
	told          string        // kinds, those that had to be told first
	toldAfter     time.Duration // of the first that had to be
	lost, sent    uint64
	// packets and well count from the end of the fault: until packets arrived again, and until all was well.
	packets, well time.Duration
}

// Each fault ends as if it had not been: packets flow again by themselves, health has told it and told its
// end, the kernel's state is as before, and no packet of a pod has left bare. Without the flag only those
// that take seconds are brought about, with one engine, and the page has a row for each.
func TestFaults(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	if *faultPage == "" && *faultNames == "" {
		testFaultPage(t)
	}
	var rows []faultRow
	for _, engine := range strings.Fields(*faultKinds) {
		for _, named := range []bool{false, true} {
			all := slices.DeleteFunc(slices.Clone(faults),
				func(f fault) bool { return f.named != named || !f.asked(engine) })
			if len(all) == 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s named=%v", engine, named), func(t *testing.T) {
				r := newFaultRig(t, engine, named)
				for _, f := range all {
					row := faultRow{fault: f.name, engine: engine}
					if !t.Run(f.name, func(t *testing.T) { row = r.suffer(t, f) }) {
						row.told = "**failed**"
					}
					rows = append(rows, row)
				}
				if r.watch != nil {
					r.watch.end(t)
				}
			})
		}
	}
	if *faultPage != "" {
		old, err := os.ReadFile(*faultPage)
		if err != nil {
			t.Fatal(err)
		}
		if err := nstest.Rewrite(*faultPage, "faults", faultTable(rows, string(old))); err != nil {
			t.Fatal(err)
		}
	}
}

// asked tells whether a fault is to be brought about with an engine.
func (f fault) asked(engine string) bool {
	if *faultPage == "" && *faultNames == "" {
		return f.brief && engine == "kernel"
	}
	return (f.only == "" || f.only == engine) && regexp.MustCompile(*faultNames).MatchString(f.name)
}

// testFaultPage looks whether the page has a row for each fault.
func testFaultPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		if !strings.Contains(string(page), "| "+f.name+" |") {
			t.Errorf("docs/reliability.md has no row about %q: `make chaos` writes them", f.name)
		}
	}
}

// suffer brings a fault about while pods talk, and waits until nothing is left of it.
func (r *faultRig) suffer(t *testing.T, f fault) faultRow {
	r.t = t
	defer func() { r.t = r.whole }()
	r.settle(t)
	before := r.state(t)
	r.opened(t)
	r.port += 2
	address := func(pod string, i int) string { return fmt.Sprintf("%s:%d", pod, r.port+i) }
	streams := []*timed{
		startTimed(t, r.PodW2b, r.PodW, address("10.244.2.3", 0), address("10.244.1.2", 0), faultRate),
		startTimed(t, r.PodW, r.PodW2b, address("10.244.1.2", 1), address("10.244.2.3", 1), faultRate)}
	row := faultRow{fault: f.name, engine: r.engine}
	told := map[string]time.Duration{}
	began := time.Now()
	end := f.begin(r)
	for due := false; time.Since(began) < f.lasts || len(f.kinds) > 0 && !due; {
		time.Sleep(50 * time.Millisecond)
		r.note(told, began)
		due = slices.ContainsFunc(f.kinds, func(kind string) bool { return told[kind] > 0 })
		if time.Since(began) > f.lasts+4*patience {
			s, _ := r.ask(hurt)
			t.Fatalf("none of %q is told, but %v: %+v", f.kinds, told, s.Health)
		}
	}
	end()
	ended := time.Now()
	for _, s := range streams {
		for deadline := ended.Add(4 * patience); s.since(ended) < faultRate/10; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("pods' packets do not arrive %v after the end", 4*patience)
			}
		}
	}
	row.packets = time.Since(ended)
	r.settle(t)
	row.well = time.Since(ended)
	now := ""
	for deadline := time.Now().Add(patience); now != before; time.Sleep(100 * time.Millisecond) {
		if now = r.state(t); time.Now().After(deadline) {
			t.Fatalf("the state is\n%s\nand was\n%s", now, before)
		}
	}
	for i, d := range r.programs() {
		noMoreOpen(t, d, r.open[i])
	}
	for _, s := range streams {
		lost, sent := s.losses()
		row.lost, row.sent = row.lost+lost, row.sent+sent
	}
	if !f.astray || r.engine == "sealed" {
		r.bare()
	}
	if f.astray { // what has gone astray must not be taken for that of a later fault
		r.bare = r.watchedAnew()
	}
	row.told, row.toldAfter = toldOf(f, told)
	return row
}

// faultRate is how many packets a second pods send, each way.
const faultRate = 200

// note notes which kinds of problems worker2 and its peers tell, and when first.
func (r *faultRig) note(told map[string]time.Duration, began time.Time) {
	for i := range r.daemons {
		s, _ := r.ask(i)
		for _, p := range s.Health.Problems {
			if told[p.Kind] == 0 {
				told[p.Kind] = time.Since(began)
			}
		}
	}
}

// toldOf returns the kinds that were told, those that had to be first, and when the first of those was.
func toldOf(f fault, told map[string]time.Duration) (kinds string, after time.Duration) {
	var due, more []string
	for kind, at := range told {
		if !slices.Contains(f.kinds, kind) {
			more = append(more, "`"+kind+"`")
			continue
		}
		due = append(due, "`"+kind+"`")
		if after == 0 || at < after {
			after = at
		}
	}
	slices.Sort(due)
	slices.Sort(more)
	if len(due) == 0 { // nothing has to be told
		return strings.Join(more, ", "), 0
	}
	return strings.Join(due, ", "), after
}

// losses ends a stream, and returns how many different packets did not arrive, of how many.
func (s *timed) losses() (lost, sent uint64) {
	s.finish()
	s.in.Close()
	s.out.Close()
	seen := map[uint64]bool{}
	for _, a := range s.arrivals {
		seen[a.number] = true
	}
	return s.flow.sent - uint64(len(seen)), s.flow.sent
}

// faultTable writes the part of docs/reliability.md about faults. Rows of a page that were not measured
// again, since only some faults or engines were asked for, stay.
func faultTable(rows []faultRow, page string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", nstest.Measured("make chaos"))
	b.WriteString("| fault | engine | status tells | after | packets lost | they arrive again after | " +
		"well after |\n|---|---|---|---|---|---|---|\n")
	for _, f := range faults {
		for _, engine := range pageEngines {
			i := slices.IndexFunc(rows, func(r faultRow) bool { return r.fault == f.name && r.engine == engine })
			if i >= 0 {
				fmt.Fprintln(&b, rowBegin(f.name, engine)+rows[i].cells())
			} else {
				b.WriteString(keptRow(page, f.name, engine))
			}
		}
	}
	return b.String()
}

// pageEngines are the engines of pages' rows, in their order.
var pageEngines = []string{"user", "kernel", "sealed"}

// rowBegin is how a row of a page about something with an engine begins.
func rowBegin(name, engine string) string { return fmt.Sprintf("| %s | %s |", name, engine) }

// keptRow returns a row that a page has already, with the end of its line; nothing if there is none.
func keptRow(page, name, engine string) string {
	_, rest, ok := strings.Cut(page, "\n"+rowBegin(name, engine))
	if !ok {
		return ""
	}
	line, _, _ := strings.Cut(rest, "\n")
	return rowBegin(name, engine) + line + "\n"
}

// cells are the cells of a row behind the first two.
func (row faultRow) cells() string {
	after := ""
	if row.toldAfter > 0 {
		after = fmt.Sprintf("%.1f s", row.toldAfter.Seconds())
	}
	return fmt.Sprintf(" %s | %s | %d of %d | %.1f s | %.1f s |", row.told, after, row.lost, row.sent,
		row.packets.Seconds(), row.well.Seconds())
}
