package daemon

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/filter"
	"example.org/meshd/internal/masq"
	"example.org/meshd/internal/nft"
)

// masqTask keeps the rules in nftables as planned, whoever removes them. That
// they cannot be set is a warning and no end: the mesh itself works without.
type masqTask struct {
	log    *slog.Logger
	rules  *masq.Masq
	accept *filter.Forward
	guard  *filter.Guard

	work sync.Mutex // held while the kernel is made to match plan
	plan *plan      // guarded by work

	repaired time.Time // when the last repair was; Run's own

	mu      sync.Mutex
	repairs uint64
	dropped uint64 // by the guard, as read last
	failure string // why the rules are not in force; empty if they are
	advice  string // what the user must do himself; empty if nothing
}

func newMasqTask(log *slog.Logger) *masqTask {
	return &masqTask{log: log, rules: masq.New(), accept: filter.NewForward(), guard: filter.NewGuard()}
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
	same := m.plan != nil && sameRules(m.plan, p)
	m.plan = p
	var errs []error
	if p.masq == nil {
		errs = append(errs, m.rules.Remove())
	}
	if p.forward == nil {
		_, forwardErr := m.accept.Remove()
		_, legacyErr := filter.CleanUpLegacy()
		errs = append(errs, forwardErr, legacyErr)
	} else {
		advice, err := filter.SetLegacy(*p.forward)
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

// sameRules tells whether two plans ask for the same rules.
func sameRules(a, b *plan) bool {
	return reflect.DeepEqual(a.masq, b.masq) && reflect.DeepEqual(a.forward, b.forward) && reflect.DeepEqual(a.guard, b.guard)
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
	var errs []error
	note := func(changed bool, err error) {
		repaired = repaired || changed
		errs = append(errs, err)
	}
	note(m.guard.Set(m.plan.guard))
	if m.plan.masq != nil {
		note(m.rules.Set(*m.plan.masq))
		note(false, m.rules.StandBy(*m.plan.masq))
	}
	if m.plan.forward != nil {
		note(m.accept.Set(*m.plan.forward))
	}
	return repaired, errors.Join(errs...)
}

// Run repairs the rules until ctx ends. No timer runs while all is well.
func (m *masqTask) Run(ctx context.Context) error {
	defer m.rules.Close()
	for {
		err := nft.Watch(ctx, m.accept.StandsIn, func(by string) error { return m.repair(ctx, by) })
		m.note(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryRules):
		}
	}
}

// repair restores the rules if somebody has changed them, and looks again until a look finds nothing
// to restore: what somebody does while rules are being written may be told before they are there.
func (m *masqTask) repair(ctx context.Context, by string) error {
	for {
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
	}
}

// refused returns how many packets the guard of the mesh port has dropped. It never falls; a reading
// that fails returns the last one.
func (m *masqTask) refused() uint64 {
	n, err := m.guard.Drops()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.dropped = n
	}
	return m.dropped
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
