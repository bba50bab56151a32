package daemon

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/masq"
)

// masqTask keeps the rules in nftables as planned, whoever removes them. That
// they cannot be set is a warning and no end: the mesh itself works without.
type masqTask struct {
	log    *slog.Logger
	rules  *masq.Masq
	accept *masq.Forward

	work sync.Mutex // held while the kernel is made to match plan
	plan *plan      // guarded by work

	repaired time.Time // when the last repair was; Run's own

	mu      sync.Mutex
	repairs uint64
	failure string // why the rules are not in force; empty if they are
	advice  string // what the user must do himself; empty if nothing
}

func newMasqTask(log *slog.Logger) *masqTask {
	return &masqTask{log: log, rules: masq.New(), accept: masq.NewForward()}
}

func (m *masqTask) String() string { return "masquerade" }

// retryRules is how long to wait after nftables refused us.
const retryRules = 2 * time.Second

// repairPause is the least time between two repairs. Another program that insists
// on its own idea of our rules, a second meshd say, must not keep both busy.
const repairPause = time.Second

// follow makes a plan the one to keep: it puts its rules in force and takes away
// those that are not wanted any more.
func (m *masqTask) follow(p *plan) error {
	m.work.Lock()
	defer m.work.Unlock()
	same := m.plan != nil && reflect.DeepEqual(m.plan.masq, p.masq) && reflect.DeepEqual(m.plan.forward, p.forward)
	m.plan = p
	var errs []error
	if p.masq == nil {
		errs = append(errs, m.rules.Remove())
	}
	if p.forward == nil {
		forwardErr := m.accept.Remove()
		_, legacyErr := masq.CleanUpLegacy()
		errs = append(errs, forwardErr, legacyErr)
	} else {
		advice, err := masq.SetLegacy(*p.forward)
		m.mu.Lock()
		m.advice = advice
		m.mu.Unlock()
		errs = append(errs, err)
	}
	repaired, err := m.set()
	if same && repaired {
		m.count("")
	}
	err = errors.Join(append(errs, err)...)
	m.note(err)
	return err
}

// fine tells whether the rules are in force.
func (m *masqTask) fine() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failure == ""
}

// set makes the kernel match the plan; repaired tells that something of ours had
// been changed. The caller holds work.
func (m *masqTask) set() (repaired bool, err error) {
	if m.plan == nil { // nothing is forwarded yet
		return false, nil
	}
	if m.plan.masq != nil {
		repaired, err = m.rules.Set(*m.plan.masq)
		if err == nil {
			err = m.rules.StandBy()
		}
		if err != nil {
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
	defer m.rules.Close()
	for {
		err := masq.Watch(ctx, m.accept, func(by string) error { return m.repair(ctx, by) })
		m.note(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryRules):
		}
	}
}

// repair restores the rules if somebody has changed them.
func (m *masqTask) repair(ctx context.Context, by string) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(time.Until(m.repaired.Add(repairPause))): // at once, if the last one is long ago
	}
	m.work.Lock()
	repaired, err := m.set()
	m.work.Unlock()
	m.note(err)
	if err != nil || !repaired {
		return err
	}
	m.repaired = time.Now()
	m.count(by)
	return nil
}

// count tells of a repair.
func (m *masqTask) count(by string) {
	m.mu.Lock()
	m.repairs++
	m.mu.Unlock()
	m.log.Warn("rules of meshd were changed by another program: restored", "program", by, "event", "rules_restored")
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
	if changed && err == nil {
		m.log.Info("rules are in force again", "event", "rules_in_force")
	}
	if changed && err != nil {
		m.log.Error("rules are not in force, trying again", "error", err, "event", "rules_failed")
	}
}

// status tells what the rules did, and what is wrong with them.
func (m *masqTask) status() (s control.Masquerade, warnings []string) {
	m.work.Lock()
	enabled := m.plan.masq != nil
	m.work.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	s = control.Masquerade{Enabled: enabled, Rules: []control.Rule{}, Repairs: m.repairs}
	for _, w := range []string{m.failure, m.advice} {
		if w != "" {
			warnings = append(warnings, w)
		}
	}
	if !enabled {
		return s, warnings
	}
	counters, err := m.rules.Counters()
	if err != nil {
		return s, append(warnings, "masquerade counters cannot be read: "+err.Error())
	}
	for _, c := range counters {
		s.Rules = append(s.Rules, control.Rule{Name: c.Rule, Packets: c.Packets, Bytes: c.Bytes})
	}
	return s, warnings
}
