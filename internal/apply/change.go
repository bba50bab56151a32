package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/state"
)

// Apply puts a text in force in the place of what the file has now; with a time, until it is confirmed within
// that. The error is ErrPending while another change waits, a *control.Rejection if the text cannot be in
// force here, and ErrNotKept if the way back could not be kept: then nothing has changed. What waits already
// is not put in force again, so an asker who missed the answer may ask once more.
func (k *Keeper) Apply(ctx context.Context, q control.ApplyRequest) (control.ApplyResult, error) {
	if err := k.hold(ctx); err != nil {
		return control.ApplyResult{}, err
	}
	defer k.release()
	return k.apply(ctx, q, CauseApply)
}

// apply is Apply for whoever holds one.
func (k *Keeper) apply(ctx context.Context, q control.ApplyRequest, cause string,
) (control.ApplyResult, error) {
	sum := sumOf(q.Doc)
	if waits := k.Told(); waits != nil && waits.SHA256 == sum {
		return control.ApplyResult{Schema: control.Schema, SHA256: sum, Pending: waits,
			ReloadResult: control.ReloadResult{Reload: control.Reload{OK: true}}}, nil
	} else if waits != nil {
		return control.ApplyResult{}, fmt.Errorf("%w: it was made by %s: confirm it or take it back first",
			ErrPending, waits.By)
	}
	if faults, err := k.daemon.Plan(ctx, q.Path, q.Doc); err != nil {
		return control.ApplyResult{}, &control.Rejection{Message: err.Error(), Faults: faults}
	}
	file, current := contentOf(k.daemon.Read(ctx)), k.daemon.Current()
	k.flush() // what was in force until now comes first
	next, err := k.prepare(q, cause, sum, file, current)
	if err != nil {
		return control.ApplyResult{}, fmt.Errorf("%w: %w", ErrNotKept, err)
	}
	was, text, before := k.swap(next, q.Doc, []byte(current))
	result, err := k.daemon.Put(context.WithoutCancel(ctx), cause+" by "+q.By, q.Doc)
	if err != nil || !result.Reload.OK {
		k.swap(was, text, before)
		k.flush()
		// The reconciler goes on trying what the host has refused; this is what it is to go on with.
		_, putErr := k.daemon.Put(context.WithoutCancel(ctx), "the change was refused", []byte(current))
		return control.ApplyResult{Schema: control.Schema, SHA256: sum, ReloadResult: result},
			errors.Join(err, putErr)
	}
	k.flush()
	if next != nil && next.State == pending {
		k.log.Warn("a change waits for its confirmation", "sha256", sum, "by", q.By, "in", next.Line.Left,
			"event", "change_pending")
		k.rouse()
	}
	return control.ApplyResult{Schema: control.Schema, SHA256: sum, Pending: k.Told(), ReloadResult: result}, nil
}

// prepare keeps what a change and its way back need. It returns the record of the change; nil if none is
// needed, because the file has the text already.
func (k *Keeper) prepare(q control.ApplyRequest, cause, sum, file, current string) (*record, error) {
	was := k.record()
	now := stand{Sum: sumOf([]byte(current))}
	next := &record{Path: k.path, State: settled, Cause: cause, Follow: q.Follow, By: q.By,
		Told: q.Told, At: k.clock.Wall().Round(time.Millisecond)}
	next.stand = stand{Sum: sum, Shadows: []string{file}}
	if was != nil && was.Sum == now.Sum {
		now.Shadows = was.Shadows
		next.Shadows = was.with(file)
	}
	if q.Follow && file != sum { // root may still be writing the text that this one takes the place of
		next.Shadows = next.with(now.Sum)
	}
	next.Shadows = slices.DeleteFunc(next.Shadows, func(s string) bool { return s == sum })
	wait := time.Duration(q.ConfirmSeconds * float64(time.Second))
	if wait > 0 && sum != now.Sum { // a text that is in force already needs no way back
		next.State, next.Before, next.Line = pending, &now, k.clock.draw(wait)
	}
	if next.State == settled && len(next.Shadows) == 0 {
		next = nil
	}
	_, err := state.Timely(func() ([]byte, error) {
		return nil, k.store.keep(next, []byte(current), q.Doc)
	})
	if err != nil { // the record may be there: Run has it be as before
		k.mu.Lock()
		k.dirty = true
		k.mu.Unlock()
		k.note(err)
	}
	return next, err
}

// record returns the record of now, which must not be changed.
func (k *Keeper) record() *record {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rec
}

// swap puts another record in the place of the one that there is, which it returns.
func (k *Keeper) swap(next *record, text, before []byte) (*record, []byte, []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	was, wasText, wasBefore := k.rec, k.text, k.before
	k.set(next)
	k.text, k.before = text, before
	return was, wasText, wasBefore
}

// Confirm keeps the change that waits. A sum that is not empty says which; ErrOther: another one waits. It is
// ErrTakenBack if the time is over, ErrNothing if nothing waits, and ErrNotKept if a power cut would still
// take the change back: it goes on to wait.
func (k *Keeper) Confirm(ctx context.Context, by control.Asker, sum string) error {
	if err := k.hold(ctx); err != nil {
		return err
	}
	defer k.release()
	r := k.record()
	switch {
	case r != nil && r.State == takenBack && (sum == "" || sum == r.Refused):
		return fmt.Errorf("%w at %s: apply it again", ErrTakenBack, r.At.Format(time.RFC3339))
	case r == nil || r.State != pending:
		return ErrNothing
	case sum != "" && sum != r.Sum:
		return fmt.Errorf("%w: %s", ErrOther, r.Sum)
	case r.Line.left(k.clock) == 0:
		return fmt.Errorf("%w just now: apply it again", ErrTakenBack)
	}
	next := *r
	next.State, next.Before, next.Line = settled, nil, nil
	kept := &next
	if len(next.Shadows) == 0 {
		kept = nil
	}
	if _, err := state.Timely(func() ([]byte, error) { return nil, k.store.keep(kept) }); err != nil {
		return fmt.Errorf("%w: %w", ErrNotKept, err)
	}
	k.mu.Lock()
	if now := k.rec; now != nil && now.Sum == r.Sum && now.State == pending { // no edit came meanwhile
		if next.Shadows = now.Shadows; len(next.Shadows) == 0 {
			kept = nil
		}
		k.set(kept)
	}
	k.sure = r.Sum
	k.came = slices.Clone(k.came) // a disk that hangs may still be given the other one
	for i := range k.came {
		k.came[i].confirm(r.Sum)
	}
	k.mu.Unlock()
	k.flush()
	k.log.Info("the change is confirmed", "sha256", r.Sum, "by", by.By, "event", "change_confirmed")
	// Whoever hears that encryption is confirmed may rely on it: no start finds an earlier file from now on.
	k.daemon.Settled(context.WithoutCancel(ctx))
	return nil
}

// Rollback takes back the change that waits. If none does, it applies an earlier file: the one with a number,
// or for 0 the one before. Errors are those of Apply, and ErrNoFile.
func (k *Keeper) Rollback(ctx context.Context, q control.RollbackRequest) (control.ApplyResult, error) {
	if err := k.hold(ctx); err != nil {
		return control.ApplyResult{}, err
	}
	defer k.release()
	waits := k.Told()
	if q.SHA256 != "" && (waits == nil || waits.SHA256 != q.SHA256) {
		return control.ApplyResult{}, ErrNothing
	}
	if waits != nil && q.Number == 0 {
		result, err := k.takeBack(ctx, q.Asker, "somebody took it back")
		return control.ApplyResult{Schema: control.Schema, SHA256: sumOf([]byte(k.daemon.Current())),
			ReloadResult: result}, err
	}
	k.flush()
	e, found := k.store.find(q.Number)
	if q.Number == 0 {
		e, found = k.store.before(sumOf([]byte(k.daemon.Current())))
	}
	if !found {
		return control.ApplyResult{}, fmt.Errorf("%w: `meshd history` lists those that are", ErrNoFile)
	}
	doc, err := state.Timely(func() ([]byte, error) { return k.store.text(e.Sum) })
	if err != nil {
		return control.ApplyResult{}, err
	}
	return k.apply(ctx, control.ApplyRequest{Path: fmt.Sprintf("(file %d of history)", e.Number), Doc: doc,
		ConfirmSeconds: q.ConfirmSeconds, Follow: q.Follow, Asker: q.Asker}, CauseRollback)
}

// takeBack puts the text before a change in force again. The caller holds one. The record comes first: a
// daemon that ends meanwhile begins with the text before.
func (k *Keeper) takeBack(ctx context.Context, by control.Asker, why string) (control.ReloadResult, error) {
	text, waits := k.goBack(by, why)
	if !waits { // an edit has ended it just now
		return control.ReloadResult{}, ErrNothing
	}
	k.flush()
	result, err := k.daemon.Put(ctx, "the change was taken back", text)
	if err == nil && !result.Reload.OK {
		err = errors.New(result.Reload.Error)
	}
	if err != nil {
		k.log.Error("cannot go back to the file before the change", "error", err, "event", "take_back_failed")
	}
	k.flush()
	return result, err
}

// goBack replaces the record of a change that waits by one that it was taken back, and returns the text
// before. ok is false if none waits.
func (k *Keeper) goBack(by control.Asker, why string) (text []byte, ok bool) {
	k.mu.Lock()
	r := k.rec
	if r == nil || r.State != pending {
		k.mu.Unlock()
		return nil, false
	}
	next := &record{Path: r.Path, State: takenBack, Cause: CauseBack, Follow: true, Refused: r.Sum,
		By: by.By, Told: by.Told, At: k.clock.Wall().Round(time.Millisecond)}
	next.stand = stand{Sum: r.Before.Sum, Shadows: r.Before.with(r.Sum)}
	k.set(next)
	k.text, k.before = k.before, nil
	text = k.text
	k.mu.Unlock()
	k.rouse()
	k.log.Warn("the change was taken back", "why", why, "sha256", r.Sum, "now", next.Sum, "made_by", r.By,
		"event", "change_taken_back")
	return text, true
}

// Files lists the files that were in force, the newest first.
func (k *Keeper) Files(ctx context.Context) (control.Files, error) {
	if err := k.hold(ctx); err != nil {
		return control.Files{}, err
	}
	defer k.release()
	k.flush()
	all := control.Files{Schema: control.Schema, Path: k.path, Files: []control.File{}, Pending: k.Told()}
	current, seen := sumOf([]byte(k.daemon.Current())), false
	for _, e := range slices.Backward(k.store.list()) {
		inForce := !seen && e.Sum == current
		seen = seen || inForce
		all.Files = append(all.Files, e.told(inForce))
	}
	return all, nil
}

// told returns a file as the API has it.
func (e entry) told(inForce bool) control.File {
	return control.File{Number: e.Number, SHA256: e.Sum, Bytes: e.Bytes, At: e.At, Cause: e.Cause,
		Outcome: e.Outcome, InForce: inForce, By: e.By, Told: e.Told}
}

// File returns one of the files, with its text. The error is ErrNoFile if none has the number.
func (k *Keeper) File(ctx context.Context, number int) (control.OneFile, error) {
	if err := k.hold(ctx); err != nil {
		return control.OneFile{}, err
	}
	defer k.release()
	k.flush()
	e, found := k.store.find(number)
	if !found {
		return control.OneFile{}, fmt.Errorf("%w: number %d: see `meshd history`", ErrNoFile, number)
	}
	doc, err := state.Timely(func() ([]byte, error) { return k.store.text(e.Sum) })
	return control.OneFile{Schema: control.Schema,
		File: e.told(e.Sum == sumOf([]byte(k.daemon.Current()))), Text: string(doc)}, err
}
