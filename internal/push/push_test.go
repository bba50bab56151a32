package push

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.org/meshd/internal/control"
)

// Hashes of the file that is pushed and of the one before.
const newSum, oldSum = "new", "old"

// A fakeHost is a meshd in a mesh of fake ones.
type fakeHost struct {
	mesh *fakeMesh
	name string

	// What goes wrong there; may be nil.
	refuses error
	lost    func(h *fakeHost) bool // it cannot be reached

	sum      string
	deadline time.Time // of a change that waits
	calls    []string
}

// A fakeMesh has hosts that cut some of them off with the new file.
type fakeMesh struct {
	mu    sync.Mutex
	hosts []*fakeHost
	cuts  []string // hosts that others do not hear while one of both ends has the new file
}

// tick has hosts go back whose time is over.
func (m *fakeMesh) tick() {
	for _, h := range m.hosts {
		if !h.deadline.IsZero() && !time.Now().Before(h.deadline) {
			h.sum, h.deadline = oldSum, time.Time{}
		}
	}
}

// add adds hosts, which a push is for.
func (m *fakeMesh) add(p *Push, names ...string) {
	for _, name := range names {
		h := &fakeHost{mesh: m, name: name, sum: oldSum}
		m.hosts, p.Hosts = append(m.hosts, h), append(p.Hosts, h)
	}
}

// files returns the files of all hosts when the time of every change is over.
func (m *fakeMesh) files() string {
	time.Sleep(10 * time.Minute)
	m.tick()
	var sums []string
	for _, h := range m.hosts {
		sums = append(sums, h.sum)
	}
	return strings.Join(sums, " ")
}

// call begins a call of a host.
func (h *fakeHost) call(ctx context.Context, what string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w in time", ErrUnreachable)
	}
	h.mesh.tick()
	h.calls = append(h.calls, what)
	if h.lost != nil && h.lost(h) {
		return fmt.Errorf("%w: no route to host", ErrUnreachable)
	}
	return nil
}

func (h *fakeHost) Name() string { return h.name }

func (h *fakeHost) Status(ctx context.Context) (control.Status, error) {
	h.mesh.mu.Lock()
	defer h.mesh.mu.Unlock()
	if err := h.call(ctx, "status"); err != nil {
		return control.Status{}, err
	}
	s := control.Status{Node: h.name, Now: time.Now(), Config: control.Config{SHA256: h.sum}}
	if !h.deadline.IsZero() {
		s.Config.Pending = &control.Pending{By: "root"}
	}
	for _, other := range h.mesh.hosts {
		if other == h {
			continue
		}
		match, heard := other.sum == h.sum, time.Now().Add(time.Millisecond)
		peer := control.Peer{Name: other.name, State: control.Up, ConfigMatch: &match, LastSeen: &heard}
		cut := slices.Contains(h.mesh.cuts, h.name) || slices.Contains(h.mesh.cuts, other.name)
		if cut && (h.sum == newSum || other.sum == newSum) {
			peer.State = control.Down
		}
		s.Peers = append(s.Peers, peer)
	}
	return s, nil
}

func (h *fakeHost) Plan(ctx context.Context, _ []byte) (control.Plan, error) {
	h.mesh.mu.Lock()
	defer h.mesh.mu.Unlock()
	if err := h.call(ctx, "plan"); err != nil {
		return control.Plan{}, err
	}
	return control.Plan{Changes: []string{"+ peer"}}, h.refuses
}

func (h *fakeHost) Apply(ctx context.Context, _ []byte, wait time.Duration) error {
	h.mesh.mu.Lock()
	defer h.mesh.mu.Unlock()
	if err := h.call(ctx, "apply"); err != nil {
		return err
	}
	h.sum, h.deadline = newSum, time.Now().Add(wait)
	return nil
}

func (h *fakeHost) Confirm(ctx context.Context, _ string) error {
	h.mesh.mu.Lock()
	defer h.mesh.mu.Unlock()
	if err := h.call(ctx, "confirm"); err != nil {
		return err
	}
	if h.deadline.IsZero() {
		return errors.New("the change was taken back")
	}
	h.deadline = time.Time{}
	return nil
}

func (h *fakeHost) Rollback(ctx context.Context, _ string) error {
	h.mesh.mu.Lock()
	defer h.mesh.mu.Unlock()
	if err := h.call(ctx, "rollback"); err != nil {
		return err
	}
	if !h.deadline.IsZero() {
		h.sum, h.deadline = oldSum, time.Time{}
	}
	return nil
}

// withNew tells whether a host has the new file.
func withNew(h *fakeHost) bool { return h.sum == newSum }

func TestPush(t *testing.T) {
	always := func(*fakeHost) bool { return true }
	for _, test := range []struct {
		name string
		put  func(p *Push, m *fakeMesh)
		err  error
		want string // the files of a, b, c, d
		news string // one that must be told
	}{
		{"good", func(*Push, *fakeMesh) {}, nil, "new new new new", "d confirm ok"},
		{"with a canary", func(p *Push, _ *fakeMesh) { p.Canary = 1 }, nil, "new new new new", "a confirm ok"},
		{"one refuses", func(_ *Push, m *fakeMesh) { m.hosts[2].refuses = errors.New("no such address") },
			ErrRefused, "old old old old", "c plan refused"},
		{"one is gone", func(_ *Push, m *fakeMesh) { m.hosts[2].lost = always }, nil, "new new old new",
			"c plan unreachable"},
		{"one is gone, and all are required", func(p *Push, m *fakeMesh) { p.All, m.hosts[2].lost = true, always },
			ErrMissing, "old old old old", "c plan unreachable"},
		{"not wanted", func(p *Push, _ *fakeMesh) { p.Ask = func(int, int, int) bool { return false } },
			ErrDeclined, "old old old old", "a plan ok"},
		{"one has it already", func(_ *Push, m *fakeMesh) { m.hosts[0].sum = newSum }, nil, "new new new new",
			"a plan unchanged"},
		{"a change waits there", func(_ *Push, m *fakeMesh) { m.hosts[0].deadline = time.Now().Add(time.Hour) },
			ErrRefused, "old old old old", "a plan refused"},
		{"three are cut off from the others", func(_ *Push, m *fakeMesh) { m.cuts = []string{"b", "c", "d"} },
			ErrTakenBack, "old old old old", "a back ok"},
		{"three are cut off from here, too", func(_ *Push, m *fakeMesh) {
			m.cuts = []string{"b", "c", "d"}
			for _, h := range m.hosts[1:] {
				h.lost = withNew
			}
		}, ErrTakenBack, "old old old old", "d back ok"},
		{"the canary is cut off", func(p *Push, m *fakeMesh) { p.Canary, m.cuts = 1, []string{"a"} },
			ErrTakenBack, "old old old old", "a back ok"},
		{"the answer of apply is lost", func(_ *Push, m *fakeMesh) {
			m.hosts[1].lost = func(h *fakeHost) bool {
				return h.calls[len(h.calls)-1] == "apply" && slices.Index(h.calls, "apply") == len(h.calls)-1
			}
		}, nil, "new new new new", "b confirm ok"},
		{"one does not hear its confirmation", func(_ *Push, m *fakeMesh) {
			m.hosts[1].lost = func(h *fakeHost) bool { return slices.Contains(h.calls, "confirm") }
		}, ErrSplit, "new old new new", "b confirm unreachable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &fakeMesh{}
				var news []string
				p := &Push{Doc: []byte("x"), SHA256: newSum, Wait: 2 * time.Minute,
					Ask: func(int, int, int) bool { return true },
					Tell: func(n News) {
						news = append(news, strings.Join([]string{n.Host, n.Step, n.State}, " "))
					}}
				m.add(p, "a", "b", "c", "d")
				test.put(p, m)
				if err := p.Run(t.Context()); !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
					t.Errorf("%v, want %v", err, test.err)
				}
				if got := m.files(); got != test.want {
					t.Errorf("files %s, want %s", got, test.want)
				}
				if !slices.Contains(news, test.news) {
					t.Errorf("told %q, want %q", news, test.news)
				}
			})
		})
	}
}

// While the canary is looked at, no other host has the file.
func TestCanaryComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMesh{cuts: []string{"a"}}
		p := &Push{SHA256: newSum, Wait: time.Minute, Canary: 1, Ask: func(int, int, int) bool { return true },
			Tell: func(News) {}}
		m.add(p, "a", "b")
		if err := p.Run(t.Context()); !errors.Is(err, ErrTakenBack) {
			t.Error(err)
		}
		if slices.Contains(m.hosts[1].calls, "apply") {
			t.Error("the other host was changed")
		}
	})
}

func TestWorse(t *testing.T) {
	base := time.Unix(100, 0)
	heard, before, differs := base.Add(time.Second), base.Add(-time.Second), false
	peer := func(state string, seen *time.Time, match *bool) control.Status {
		return control.Status{Node: "a", Peers: []control.Peer{{Name: "b", State: state, LastSeen: seen,
			ConfigMatch: match}}}
	}
	problem := func(kind string) control.Status {
		return control.Status{Node: "a", Health: control.Health{Problems: []control.Problem{
			{Level: control.Degraded, Kind: kind, Text: kind}}}}
	}
	up := peer(control.Up, &before, nil)
	for _, test := range []struct {
		name          string
		before, after control.Status
		worse         bool
	}{
		{"as before", up, peer(control.Up, &heard, nil), false},
		{"down", up, peer(control.Down, &before, nil), true},
		{"still up, and not heard since", up, peer(control.Up, &before, nil), true},
		{"down before", peer(control.Down, nil, nil), peer(control.Down, nil, nil), false},
		{"not probed", peer(control.Unknown, nil, nil), peer(control.Unknown, nil, nil), false},
		{"removed", up, control.Status{Node: "a"}, false},
		{"another file", up, peer(control.Up, &heard, &differs), true},
		{"a new problem", control.Status{Node: "a"}, problem("mtu_too_large"), true},
		{"an old problem", problem("mtu_too_large"), problem("mtu_too_large"), false},
		{"a problem of a peer that comes", control.Status{Node: "a"}, control.Status{Node: "a",
			Health: control.Health{
				Problems: []control.Problem{{Level: control.Failed, Kind: "peer_down", Peer: "c"}}}}, false},
		{"a problem of pushes", control.Status{Node: "a"}, problem("file_differs"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := worse(test.before, test.after, base, map[string]bool{"a": true, "b": true})
			if (err != nil) != test.worse {
				t.Errorf("%v", err)
			}
		})
	}
}

// A push that is interrupted before its first apply changes nothing; after that all hosts go back; once
// confirmations have begun, all of them are made.
func TestInterrupted(t *testing.T) {
	for step, want := range map[string]struct {
		err   error
		files string
	}{
		StepPlan:    {ErrDeclined, "old old old old"},
		StepApply:   {ErrTakenBack, "old old old old"},
		StepVerify:  {nil, "new new new new"}, // which the last host tells of
		StepConfirm: {nil, "new new new new"},
	} {
		t.Run(step, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &fakeMesh{}
				ctx, cancel := context.WithCancel(t.Context())
				p := &Push{Doc: []byte("x"), SHA256: newSum, Wait: 2 * time.Minute,
					Ask: func(int, int, int) bool { return true },
					Tell: func(n News) {
						if n.Step == step {
							cancel()
						}
					}}
				m.add(p, "a", "b", "c", "d")
				if err := p.Run(ctx); !errors.Is(err, want.err) {
					t.Errorf("%v", err)
				}
				if got := m.files(); got != want.files {
					t.Errorf("%s", got)
				}
			})
		})
	}
}

// What a command there says besides its result is why it has failed: here the file is in force, and cannot be
// written.
func TestFileThatCannotBeWritten(t *testing.T) {
	full := Here("full", "sh", "-c", `echo '{"schema":1,"sha256":"new","reload":{"ok":true}}'
	echo '{"error":{"code":"failed","message":"write /etc/mesh.toml: read-only file system"}}'
	echo 'a banner' >&2; exit 1`, "meshd")
	err := full.Apply(t.Context(), nil, time.Minute)
	if err == nil || errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "/etc/mesh.toml") {
		t.Errorf("%v", err)
	}
}

// A meshd that knows no changes that take themselves back refuses at the plan.
func TestOlderMeshd(t *testing.T) {
	older := Here("older", "sh", "-c", `case $1 in
	plan) echo '{"changes":["+ peer"]}'; exit 1 ;;
	*) echo '{"error":{"code":"usage","message":"unknown command"}}'; exit 2 ;;
	esac`, "meshd")
	if _, err := older.Plan(t.Context(), nil); err == nil || errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
}
