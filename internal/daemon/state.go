package daemon

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/control"
	"example.org/meshd/internal/dataplane"
	"example.org/meshd/internal/link"
)

// heardLately is how long after its last packet a peer counts as up, where nobody is
// asked.
const heardLately = 10 * time.Second

// state is what the control socket tells. The mesh task writes it when
// something changes; counters are read at the time of asking.
type state struct {
	options Options
	path    string // of the file, absolute
	bootID  string
	started time.Time // with the reading of a clock that never jumps

	mu         sync.Mutex
	config     *config.Config
	plan       *plan // nil until the node has found itself
	engine     dataplane.Engine
	probes     *probes
	metrics    *metricsTask
	endpoints  *endpoints
	rules      *masqTask
	files      *containerTask
	forward    *forwarder
	generation int
	applied    time.Time
	reload     control.Reload // the last attempt
	socket     growing        // what the socket has dropped
	tun        growing        // what the TUN has dropped
	merger     growing        // and where TCP is merged
	repairs    uint64
	history    history
	notice     string // why nothing is forwarded yet, or not as it should be
	unwatched  string // why the file cannot be watched
	buffers    string // what is wrong with the socket's buffers
	broken     string // why the mesh could not be repaired
}

func newState(o Options, c *config.Config) *state {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	path, err := filepath.Abs(c.Path)
	if err != nil { // the working directory is gone
		path = c.Path
	}
	return &state{options: o, config: c, path: path, bootID: hex.EncodeToString(id[:]), started: time.Now(), notice: "starting",
		reload: outcome(now(), now(), nil, nil)} // it was loaded
}

// loaded returns the configuration that was read last and found good.
func (s *state) loaded() *config.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config
}

// inForce returns the plan in force and its generation; nil if there is none yet.
func (s *state) inForce() (*plan, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plan, s.generation
}

// load notes which file waits to be put in force.
func (s *state) load(c *config.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = c
}

// waiting notes why nothing is forwarded, or not as it should be; empty if all is
// well. It tells whether it was well until now, or is well again.
func (s *state) waiting(notice string) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	news = (s.notice == "") != (notice == "")
	s.notice = notice
	return news
}

// notes returns what waiting was told.
func (s *state) notes() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notice
}

// watches notes that the file is watched, or why not, and tells whether that is new.
func (s *state) watches(err error) (news bool) {
	warning := ""
	if err != nil {
		warning = fmt.Sprintf("the file cannot be watched, so an edit takes effect only within %v: %v; `sysctl fs.inotify.max_user_instances=1024` may help", watchAgain, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	news = s.unwatched != warning
	s.unwatched = warning
	return news
}

// smallBuffers notes what is wrong with the socket's buffers, and tells whether that
// is new.
func (s *state) smallBuffers(warning string) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	news = s.buffers != warning
	s.buffers = warning
	return news
}

// sameFailure tells whether the last attempt to apply a file failed for this reason.
func (s *state) sameFailure(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return err != nil && s.reload.Error == err.Error()
}

// forwarding notes that the first plan is in force.
func (s *state) forwarding(m *reconciler, began time.Time) {
	tun, _ := link.Overflows(m.plan.link.Interface) // 0 if it is not there
	merger, _ := link.Overflows(link.MergerEntry)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopt(m)
	s.engine, s.probes, s.rules, s.files, s.metrics, s.forward, s.notice = m.engine, m.probes, m.rules, m.files, m.metrics, m.forward, ""
	s.tun.last, s.merger.last = tun, merger // earlier runs are none of ours
	s.applied = now()
	s.generation = 1
	s.reload = outcome(began, s.applied, nil, nil)
}

// adopt takes over what is in force. The caller holds mu.
func (s *state) adopt(m *reconciler) {
	s.endpoints = m.endpoints
	s.plan, s.config = m.plan, m.plan.config
}

// reloaded notes the outcome of an attempt to apply the file again.
func (s *state) reloaded(m *reconciler, began time.Time, changes []string, err error) control.ReloadResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := now()
	s.reload = outcome(began, at, changes, err)
	if errors.Is(err, errWaiting) { // nothing is wrong with the file
		defer func() { s.reload = outcome(began, at, nil, nil) }()
	}
	if err == nil && s.config != m.plan.config {
		if s.config.Sum != m.plan.config.Sum || len(changes) > 0 {
			s.generation++
			s.applied = at
		}
		s.adopt(m)
	}
	result := control.ReloadResult{Schema: control.Schema, Generation: s.generation, Reload: s.reload, Faults: faultsOf(err)}
	s.reload.Changes = first(changesKept, s.reload.Changes)
	return result
}

// repaired notes what a look at the host led to.
func (s *state) repaired(m *reconciler, what []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopt(m)
	s.broken = ""
	if err != nil {
		s.broken = "the mesh cannot be repaired, trying again: " + err.Error()
	} else if len(what) > 0 {
		s.repairs++
	}
}

// faultsOf returns the places in the file that an error is about.
func faultsOf(err error) []control.Error {
	faults, ok := errors.AsType[config.Faults](err)
	if !ok {
		return nil
	}
	var all []control.Error
	for _, f := range faults {
		all = append(all, control.Error{Code: "bad_configuration", Message: f.String(), File: f.Path, Line: f.Line})
	}
	return all
}

func outcome(began, at time.Time, changes []string, err error) control.Reload {
	r := control.Reload{OK: err == nil, At: at, DurationMS: float64(time.Since(began).Microseconds()) / 1000, Changes: []string{}}
	if err == nil {
		r.Changes = append(r.Changes, changes...)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// fits returns an error if the file, as it was read last, is not in force: another program,
// which knows nothing else, could not go on as this one does.
func (s *state) fits() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reload.Error != "" {
		return fmt.Errorf("the file was rejected, and generation %d stays in force: %s", s.generation, s.reload.Error)
	}
	return nil
}

// summary is the state in one line.
func (s *state) summary() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.plan == nil:
		return s.notice
	case s.reload.Error != "":
		return fmt.Sprintf("generation %d stays in force: %s", s.generation, firstLine(s.reload.Error))
	case s.notice != "" || s.broken != "":
		return cmp.Or(s.broken, s.notice)
	}
	up := 0
	for _, p := range s.peers(s.engine.Counters()) {
		if p.State == control.Up {
			up++
		}
	}
	return fmt.Sprintf("forwarding as %s: %d of %d peers up", s.plan.self.Name, up, len(s.plan.mesh.Peers)-1)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
