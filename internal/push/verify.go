package push

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"example.org/meshd/internal/control"
)

// verify waits until all hosts that take part are as well as before. changed have the file by now; last tells
// that these are all, so that peers have to agree about it.
func (p *Push) verify(ctx context.Context, all, changed []*target, last bool) error {
	for _, t := range all {
		t.base, t.last = time.Time{}, nil
	}
	have := map[string]bool{}
	for _, t := range all {
		if last || t.has || slices.Contains(changed, t) {
			have[t.before.Node] = true
		}
	}
	for {
		well := true
		each(all, func(_ int, t *target) {
			if err := p.look(ctx, t, have); ctx.Err() == nil || t.last == nil { // else it was not let end
				t.last = err
			}
		})
		for _, t := range all {
			well = well && t.last == nil
		}
		if well {
			for _, t := range changed {
				p.told(t, StepVerify, nil)
			}
			return nil
		}
		select {
		case <-time.After(pause):
			continue
		case <-ctx.Done():
		}
		var errs []error
		for _, t := range all {
			if t.last != nil {
				p.told(t, StepVerify, t.last)
				errs = append(errs, fmt.Errorf("%s: %w", t.Name(), t.last))
			}
		}
		return errors.Join(errs...)
	}
}

// look asks a host how it is, and returns why it is not as well as before. have are the nodes with the file.
func (p *Push) look(ctx context.Context, t *target, have map[string]bool) error {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	s, err := t.Status(ctx)
	if err != nil {
		return err
	}
	if t.after = s; t.base.IsZero() {
		t.base = s.Now
	}
	if have[t.before.Node] && s.Config.SHA256 != p.SHA256 {
		return errors.New("the file is not in force there")
	}
	return worse(t.before, s, t.base, have)
}

// aboutFiles are kinds of problems that a push itself brings with it, for as long as it lasts.
var aboutFiles = []string{"file_differs", "change_pending", "file_behind"}

// worse returns in what a host is worse than before; nil: in nothing. Peers that the file removes are not
// missed, and those that were not well before need not be. base is when the file was in force everywhere, by
// the host's clock: what it has heard since counts.
func worse(before, after control.Status, base time.Time, have map[string]bool) error {
	was := map[string]control.Peer{}
	for _, peer := range before.Peers {
		was[peer.Name] = peer
	}
	for _, peer := range after.Peers {
		old, known := was[peer.Name]
		switch {
		case !known || !old.Serves():
		case !peer.Serves():
			return fmt.Errorf("peer %s is %s", peer.Name, peer.State)
		case peer.LastSeen == nil || !peer.LastSeen.After(base):
			return fmt.Errorf("peer %s has not been heard since", peer.Name)
		case have[after.Node] && have[peer.Name] && peer.ConfigMatch != nil && !*peer.ConfigMatch:
			return fmt.Errorf("peer %s runs another file", peer.Name)
		}
	}
	for _, problem := range after.Health.Problems {
		if old, known := was[problem.Peer]; problem.Peer != "" && (!known || !old.Serves()) {
			continue
		}
		if problem.Level != control.Info && !slices.Contains(aboutFiles, problem.Kind) &&
			!slices.ContainsFunc(before.Health.Problems, func(old control.Problem) bool {
				return old.Kind == problem.Kind && old.Peer == problem.Peer
			}) {
			return fmt.Errorf("%s", problem.Text)
		}
	}
	return nil
}

// grace is how long hosts may need to go back once their time is over.
const grace = 20 * time.Second

// back takes the file back where hosts can be reached, waits until the others have gone back by themselves,
// and tells of each.
func (p *Push) back(ctx context.Context, all []*target, deadline time.Time, why error) error {
	ctx, cancel := context.WithDeadline(ctx, deadline.Add(grace))
	defer cancel()
	errs := make([]error, len(all))
	each(all, func(i int, t *target) {
		one, cancel := context.WithTimeout(ctx, asking)
		// A host that cannot be reached, or has nothing to take back, shows itself below.
		_ = t.Rollback(one, p.SHA256)
		cancel()
		errs[i] = until(ctx, func(ctx context.Context) error {
			s, err := t.Status(ctx)
			if err == nil && s.Config.SHA256 == p.SHA256 {
				err = fmt.Errorf("%w by what was in force before: it still has the file", ErrUnreachable)
			}
			return err
		})
		p.told(t, StepBack, errs[i])
	})
	return errors.Join(fmt.Errorf("%w: %w", ErrTakenBack, why), errors.Join(errs...))
}
