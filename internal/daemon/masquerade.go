package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/masq"
)

// masqTask keeps the rules in nftables as planned, whoever removes them. That
// they cannot be set is a warning and no end: the mesh itself works without.
type masqTask struct {
	log    *slog.Logger
	plan   *plan
	rules  *masq.Masq
	accept *masq.Forward

	mu      sync.Mutex
	repairs uint64
	failure string // why the rules are not in force; empty if they are
}

func newMasqTask(log *slog.Logger, p *plan) *masqTask {
	return &masqTask{log: log, plan: p, rules: masq.New(), accept: masq.NewForward()}
}

func (m *masqTask) String() string { return "masquerade" }

// retryRules is how long to wait after nftables refused us.
const retryRules = 2 * time.Second

// begin puts the rules in force, and takes away those of an earlier run that are
// not wanted any more.
func (m *masqTask) begin() {
	var err error
	if m.plan.masq == nil {
		_, err = masq.CleanUp()
	}
	if m.plan.forward == nil {
		_, forwardErr := masq.CleanUpForward()
		_, legacyErr := masq.CleanUpLegacy()
		err = errors.Join(err, forwardErr, legacyErr)
	} else {
		warning, legacyErr := masq.SetLegacy(*m.plan.forward)
		if warning != "" {
			m.plan.warn("%s", warning)
		}
		err = errors.Join(err, legacyErr)
	}
	_, setErr := m.set()
	m.note(errors.Join(err, setErr))
}

// set makes the kernel match the plan; repaired tells that something of ours had
// been changed.
func (m *masqTask) set() (repaired bool, err error) {
	if m.plan.masq != nil {
		if repaired, err = m.rules.Set(*m.plan.masq); err != nil {
			return repaired, err
		}
	}
	if m.plan.forward != nil {
		moved, err := m.accept.Set(*m.plan.forward)
		return repaired || moved, err
	}
	return repaired, nil
}

// Run repairs the rules until ctx ends. No timer runs while all is well.
func (m *masqTask) Run(ctx context.Context) error {
	if m.plan.masq == nil && m.plan.forward == nil {
		<-ctx.Done()
		return nil
	}
	for {
		err := masq.Watch(ctx, m.accept, m.repair)
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
	repaired, err := m.set()
	m.note(err)
	if err != nil || !repaired {
		return err
	}
	m.mu.Lock()
	m.repairs++
	m.mu.Unlock()
	m.log.Warn("rules of meshd were changed by another program: restored", "program", by)
	return nil
}

// note remembers a failure for status, or that there is none any more.
func (m *masqTask) note(err error) {
	failure := ""
	if err != nil {
		failure = "the rules for pods' traffic are not all in force; is nftables in the kernel? " + err.Error()
	}
	m.mu.Lock()
	changed := failure != m.failure
	m.failure = failure
	m.mu.Unlock()
	if changed && err != nil {
		m.log.Error("rules are not in force, trying again", "error", err)
	}
}

// status tells what the rules did, and a warning if they are not in force.
func (m *masqTask) status() (s control.Masquerade, warning string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s = control.Masquerade{Enabled: m.plan.masq != nil, Rules: []control.Rule{}, Repairs: m.repairs}
	if m.plan.masq == nil {
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
