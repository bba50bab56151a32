package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/masq"
)

// masqTask keeps the masquerade rules as planned, whoever removes them. That
// they cannot be set is a warning and no end: the mesh itself works without.
type masqTask struct {
	log      *slog.Logger
	rules    *masq.Masq
	settings *masq.Settings // nil: no rules wanted

	mu      sync.Mutex
	repairs uint64
	failure string // why the rules are not in force; empty if they are
}

func newMasqTask(log *slog.Logger, settings *masq.Settings) *masqTask {
	return &masqTask{log: log, rules: masq.New(), settings: settings}
}

func (m *masqTask) String() string { return "masquerade" }

// retryRules is how long to wait after nftables refused us.
const retryRules = 2 * time.Second

// begin puts the rules in force, or takes those of an earlier run away.
func (m *masqTask) begin() {
	var err error
	if m.settings == nil {
		_, err = masq.CleanUp()
	} else {
		_, err = m.rules.Set(*m.settings)
	}
	m.note(err)
}

// Run repairs the rules until ctx ends. No timer runs while all is well.
func (m *masqTask) Run(ctx context.Context) error {
	if m.settings == nil {
		<-ctx.Done()
		return nil
	}
	for {
		err := masq.Watch(ctx, m.repair)
		m.note(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryRules):
		}
	}
}

// repair restores the rules if somebody has changed them.
func (m *masqTask) repair(by string) error {
	changed, err := m.rules.Set(*m.settings)
	m.note(err)
	if err != nil || !changed {
		return err
	}
	m.mu.Lock()
	m.repairs++
	m.mu.Unlock()
	m.log.Warn("masquerade rules were changed by another program: restored", "program", by)
	return nil
}

// note remembers a failure for status, or that there is none any more.
func (m *masqTask) note(err error) {
	failure := ""
	if err != nil {
		failure = "masquerade rules are not in force, pods cannot reach the outside: " + err.Error()
	}
	m.mu.Lock()
	changed := failure != m.failure
	m.failure = failure
	m.mu.Unlock()
	if changed && err != nil {
		m.log.Error("masquerade rules are not in force", "error", err)
	}
}

// status tells what the rules did, and a warning if they are not in force.
func (m *masqTask) status() (s control.Masquerade, warning string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s = control.Masquerade{Enabled: m.settings != nil, Rules: []control.Rule{}, Repairs: m.repairs}
	if m.settings == nil {
		return s, m.failure
	}
	counters, err := m.rules.Counters()
	if err != nil {
		return s, "masquerade counters cannot be read: " + err.Error()
	}
	for _, c := range counters {
		s.Rules = append(s.Rules, control.Rule{Name: c.Rule, Packets: c.Packets, Bytes: c.Bytes})
	}
	return s, m.failure
}
