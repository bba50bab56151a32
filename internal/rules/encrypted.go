package rules

import (
	"context"

	"example.org/meshd/internal/link"
)

// This file has the rules at the encrypted interface in force before it has peers.

// enclose makes the rules at the encrypted interface match what is wanted, if there is one.
func (t *Keeper) enclose() (changed bool, err error) {
	name, index := t.wanted.Guard.Encrypted, 0
	if name != "" {
		index = link.Index(name)
	}
	changed, err = t.inner.Set(t.wanted.Guard, index)
	t.guarded = index > 0 && (err == nil || t.inner.Stands())
	return changed, err
}

// answer answers one call of Guard, and reports whether the rules could be set.
func (t *Keeper) answer(reply chan<- bool) (ok bool) {
	defer func() { reply <- t.guarded }()
	if t.wanted == nil {
		return true
	}
	if _, err := t.enclose(); err != nil {
		t.note(err)
		return false
	}
	return true
}

// Guard has Keep make the rules about what comes in by the encrypted interface match what is wanted, and
// tells whether they are in force: an interface that was made a moment ago has none. It is false where no
// such interface is wanted.
func (t *Keeper) Guard(ctx context.Context) bool {
	reply := make(chan bool, 1)
	select {
	case t.enclosing <- reply:
		return <-reply
	case <-ctx.Done():
		return false
	}
}
