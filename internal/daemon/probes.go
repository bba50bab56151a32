package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/forms"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
	"example.org/meshd/internal/plan"
	"example.org/meshd/internal/probe"
	"example.org/meshd/internal/rate"
	"example.org/meshd/internal/words"
)

// probes asks all peers how they are, reports what has changed to the registry, and has the engine
// learn what follows from it.
type probes struct {
	*probe.Prober
	log      *slog.Logger
	version  string
	engine   engine
	registry *peers.Registry
	set      chan struct{} // settings have changed
	forms    forms.Sender
	states   rate.Gathering[probe.Change]
}

// newProbes returns probes that go through an engine, which hears echoes by hear.
func newProbes(log *slog.Logger, version string, registry *peers.Registry) *probes {
	p := &probes{log: log, version: version, registry: registry, set: make(chan struct{}, 1),
		states: rate.Gathering[probe.Change]{Window: time.Second}}
	p.Prober = probe.New(func(peer string) time.Time { return p.engine.Heard(peer) })
	return p
}

// hear answers echoes of peers. It never waits.
func (p *probes) hear(e dataplane.Echo, at time.Time) (reply []byte, mine bool) {
	return p.Answer(e.Peer, e.Reply, e.Payload, at)
}

// answerForwarded answers a probe of a peer that this host has forwarded. It never waits.
func (p *probes) answerForwarded(peer string, e packet.Echo) {
	if reply, mine := p.Answer(peer, false, slices.Clone(e.Payload), time.Now()); mine && reply != nil {
		// The peer counts an answer that cannot be sent.
		_ = p.engine.SendEcho(dataplane.Echo{Peer: peer, Reply: true, ID: e.ID, Seq: e.Seq, Payload: reply})
	}
}

// apply is the part of a plan: peers hear of its file, and are asked, once all parts are in force. The
// first file is named at once: packet loops may have questions to answer before the plan is in force
// whole, and a meshd that names no file would count as another program.
func (p *probes) apply(_ context.Context, next *plan.Plan) (effect, error) {
	before, self := p.Self(), p.selfOf(next.Config)
	if before.Hash == ([32]byte{}) {
		p.Introduce(self)
	}
	return effect{
		undo: func() error { p.Introduce(before); return nil },
		commit: func() {
			p.Introduce(self)
			p.follow(next)
		},
	}, nil
}

// selfOf is what peers are told of this node while a file is in force.
func (p *probes) selfOf(c *config.Config) probe.Self {
	return probe.Self{Hash: c.Sum, Meaning: probe.Meaning(c.Meaning[:]), Version: p.version}
}

// follow asks the peers of a plan from now on.
func (p *probes) follow(next *plan.Plan) {
	s := probe.Settings{Interval: next.Config.Probe.Interval, Bounds: map[string]probe.Bounds{}}
	var all []string
	for _, peer := range next.Engine.Mesh.Others() {
		all = append(all, peer.Name)
		if next.Peer.CanSpeakTo(peer) {
			s.Peers = append(s.Peers, peer.Name)
			s.Bounds[peer.Name] = forms.Bounds(next.Peer, peer, next.Link.MTU)
		}
	}
	p.forms.Configure(next.Config.Dataplane.Spread, next.Link.MTU)
	p.registry.Keep(all)
	if s.Interval == 0 {
		for _, name := range all {
			p.learn(name, func(f *peers.Facts) { f.Asked, f.Loses = false, peers.Loses{} })
		}
	}
	p.Set(s)
	wake(p.set)
}

// learn reports a fact, and has the engine learn what follows.
func (p *probes) learn(peer string, update func(*peers.Facts)) {
	if d, news := p.registry.Report(peer, update); news {
		_ = p.engine.Learn(peer, d) // the engine has said so, and user space serves the peer
	}
}

// heed has the rules of this host decide about peers that do not answer. It is to be called every
// second.
func (p *probes) heed(now time.Time) {
	for _, name := range p.registry.Unheard() {
		h := p.engine.HeardBy(name)
		p.learn(name, func(f *peers.Facts) { f.Hear(now, h) })
	}
}

// refused tells of which peers datagrams arrive that rules of this host drop.
func (p *probes) refused() (all []mesh.Condition) {
	for _, name := range p.registry.Refused() {
		all = append(all, mesh.Condition{Kind: mesh.PeerRefused, Severity: mesh.Degraded, Peer: name,
			Remedy: "let the mesh port in; `nft list ruleset`, `ip xfrm policy` and rp_filter show what drops it"})
	}
	return all
}

// noteForbidden reports which of the questions this host did not let out. Other peers are left alone:
// until something is known of a peer, tables of an earlier meshd stay as they are.
func (p *probes) noteForbidden(questions []probe.Question, forbidden []string) {
	for _, q := range questions {
		now := slices.Contains(forbidden, q.Peer)
		if p.registry.Of(q.Peer).Forbidden != now {
			p.learn(q.Peer, func(f *peers.Facts) { f.Forbidden = now })
		}
	}
}

func (p *probes) String() string { return "probes" }

// Run implements task.
func (p *probes) Run(ctx context.Context) error {
	for {
		questions, changes := p.Work(time.Now())
		p.ask(questions)
		p.tell(changes)
		if len(questions) >= probe.Batch {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(p.states.Wait(time.Now(), p.Wait())):
		case <-p.Woken():
		case <-p.set:
		}
	}
}

// ask sends questions, in the forms that pods' packets have.
func (p *probes) ask(questions []probe.Question) {
	if trait, news := p.forms.Trait(p.engine, time.Now()); news {
		p.Differ(trait)
	}
	unsent, err := p.forms.Send(p.engine, questions)
	for _, q := range unsent {
		p.Unsent(q)
	}
	if err != nil {
		p.log.Debug("not all probes could be sent", "error", err)
	}
	p.noteForbidden(questions, dataplane.Refused(err))
}

// tell reports and logs what has changed.
func (p *probes) tell(changes []probe.Change) {
	var others, ours []string
	for _, c := range changes {
		r, _ := p.Report(c.Peer)
		p.learn(c.Peer, func(f *peers.Facts) {
			f.Asked, f.State = true, peers.State(r.State.String())
			p.forms.Update(f, r)
			if c.Told != nil || c.New == probe.Up {
				f.Meshd, f.Version, f.File = r.Told.Hash != ([32]byte{}), r.Told.Version, ""
				if f.Meshd {
					f.File = fileName(r.Told.Hash)
				}
			}
		})
		switch {
		case c.Forms:
		case c.Told != nil && c.Told.Hash == ([32]byte{}):
		case c.Told != nil && !p.Self().SameFile(*c.Told):
			others = append(others, c.Peer)
		case c.Told != nil && c.Before.Hash != ([32]byte{}) && p.Self().SameFile(c.Before): // only its text is new
		case c.Told != nil:
			ours = append(ours, c.Peer)
		default:
			p.states.Add(c.New.String(), c)
		}
	}
	for _, group := range p.states.Due(time.Now()) {
		p.tellStates(group.News)
	}
	p.tellFiles("runs another file than this node", "peer_file_differs", slog.LevelWarn, others)
	p.tellFiles("runs this node's file", "peer_file_matches", slog.LevelInfo, ours)
}

// tellStates tells of peers that came to the same state. An uplink that fails is not thousands of lines.
func (p *probes) tellStates(all []probe.Change) {
	c, subject, about := all[0], "peer is", []any{"peer", all[0].Peer}
	if len(all) > 1 {
		names := make([]string, 0, changesLogged)
		for _, c := range all[:min(len(all), changesLogged)] {
			names = append(names, c.Peer)
		}
		subject, about = fmt.Sprintf("%d peers are", len(all)),
			[]any{"count", len(all), "peers", strings.Join(names, " ")}
	} else if c.New == probe.Up {
		about = append(about, "was", c.Old, "rtt", c.Figures.Last.Round(time.Microsecond))
	} else {
		about = append(about, "was", c.Old, "silent", c.Silent.Round(time.Millisecond),
			"loss", percent(c.Figures.Loss))
	}
	switch c.New {
	case probe.Up:
		p.log.Info(subject+" up", append(about, "event", "peer_up")...)
	case probe.Stale:
		p.log.Warn(subject+" stale: no answer", append(about, "event", "peer_stale")...)
	case probe.Silent:
		p.log.Warn(subject+" silent: packets arrive, but no answer", append(about, "event", "peer_silent")...)
	case probe.OneWay:
		p.log.Error(subject+" reached one way only: heard, but no answer",
			append(about, "event", "peer_one_way")...)
	case probe.Down:
		p.log.Error(subject+" down: no answer", append(about, "event", "peer_down")...)
	}
}

// tellFiles tells who has told of another file. A file that is rolled out to
// thousands of hosts is not thousands of lines.
func (p *probes) tellFiles(what, event string, level slog.Level, names []string) {
	switch {
	case len(names) == 1:
		p.log.Log(context.Background(), level, "peer "+what, "event", event, "peer", names[0])
	case len(names) > 1:
		p.log.Log(context.Background(), level, fmt.Sprintf("%d peers: each %s", len(names), what),
			"event", event, "count", len(names), "peers", strings.Join(names[:min(len(names), changesLogged)], " "))
	}
}

func percent(share float64) string { return fmt.Sprintf("%.0f%%", 100*share) }

// Bounds of POST /v1/ping.
const (
	pingTimeout    = time.Second
	pingTimeoutMax = 10 * time.Second
)

// ping answers POST /v1/ping.
func (p *probes) ping(
	ctx context.Context, in *plan.Plan, r control.PingRequest,
) (reply control.Ping, ok bool, err error) {
	headers := dataplane.EchoHeaders(in.Peer)
	if most := in.Link.MTU - headers; r.Size < 0 || r.Size > most {
		return reply, false, fmt.Errorf("size must be at most %d bytes, which is what the MTU %d leaves",
			most, in.Link.MTU)
	}
	r.Size = max(r.Size, probe.PayloadSize)
	timeout := pingTimeout
	if r.TimeoutMS != 0 {
		timeout = time.Duration(r.TimeoutMS) * time.Millisecond
	}
	if timeout <= 0 || timeout > pingTimeoutMax {
		return reply, false, fmt.Errorf("timeout_ms must be 1 to %d", pingTimeoutMax.Milliseconds())
	}
	q, answer, forget, ok := p.Ping(r.Peer, r.Size, time.Now())
	if !ok {
		return reply, false, nil
	}
	defer forget()
	reply = control.Ping{Schema: control.Schema, Peer: r.Peer, Size: len(q.Payload) + headers}
	switch err := p.engine.SendEcho(dataplane.Echo{Peer: q.Peer, ID: q.ID, Seq: q.Seq, Payload: q.Payload}); {
	case errors.Is(err, unix.EMSGSIZE):
		reply.Error = "larger than the path to the peer"
		return reply, true, nil
	case err != nil:
		reply.Error = err.Error()
		return reply, true, nil
	}
	select {
	case rtt := <-answer:
		reply.RTTMS = milliseconds(rtt)
	case <-time.After(timeout):
	case <-ctx.Done():
	}
	return reply, true, nil
}

// milliseconds returns nil for what was not measured.
func milliseconds(d time.Duration) *float64 {
	if d == 0 {
		return nil
	}
	ms := float64(d.Microseconds()) / 1000
	return &ms
}

// report adds what probing knows of a peer to its status. ours is the file in force.
func (p *probes) report(status *control.Peer, ours *config.Config) {
	r, ok := p.Report(status.Name)
	if !ok {
		return
	}
	if ours.Probe.Interval > 0 {
		status.State = r.State.String()
		if !r.Since.IsZero() {
			status.Since = &r.Since
		}
	}
	status.ProbesTx, status.ProbesRx, status.Probes = r.Sent, r.Received, words.Probes(r)
	if f := r.Figures; f.Probes > 0 {
		status.Loss = &f.Loss
		status.RTTMS, status.RTTMinMS = milliseconds(f.P50), milliseconds(f.Min)
		status.RTTP95MS, status.RTTLastMS = milliseconds(f.P95), milliseconds(f.Last)
		status.JitterMS = milliseconds(f.Jitter)
	}
	if r.Told.Hash != ([32]byte{}) {
		match := r.Told.SameFile(p.selfOf(ours))
		status.ConfigMatch, status.ConfigSHA256 = &match, fmt.Sprintf("%x", r.Told.Hash)
		status.Version = r.Told.Version
	}
}
