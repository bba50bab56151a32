// Package apply changes the file in force with a safety line: a change that is not confirmed in time is taken
// back, by this host alone, whatever else has broken, over a restart and a reboot.
//
//	           apply                 confirm
//	settled ----------> pending ---------------> settled
//	   |                   | time is over, rollback
//	   |                   +---------------------> taken back: the text before is in force again
//	   | apply without --confirm, rollback N, an edit by hand: settled at once
//
// The daemon may not write the file that people edit. So what is in force may be another text than what is at
// the path. A record in the state folder says which text that is, and in the place of which content of the
// file it stands:
//
//	record   "text F takes the place of a file with the SHA-256 A or B"
//	file     has A or B: F is in force          has F: the record has done its work
//	         has anything else: somebody has edited it, and that is the newest word
//
// A change that was taken back is such a record, too: the file still has the change, and the text before
// takes its place until the file is another one. Root brings the file to the text in force (Owed): the
// command of whoever made the change, or a unit of the package.
//
//	record.go   the record and its deadline
//	files.go    earlier files, 20 of them
//	keeper.go   what the daemon knows; the reconciler asks it
//	change.go   what people ask for
//	follow.go   what root does for it
//	diff.go     lines that two files differ in. Pure
package apply

import (
	"context"
	"errors"
	"net/http"
	"time"

	"example.org/meshd/internal/control"
)

// Reasons why what was asked for is not done; test with errors.Is.
var (
	ErrPending   = errors.New("a change waits for its confirmation")
	ErrNothing   = errors.New("no change waits for a confirmation")
	ErrTakenBack = errors.New("the change was taken back")
	ErrOther     = errors.New("another change waits for its confirmation")
	ErrNoFile    = errors.New("no such file is kept")
	ErrNotKept   = errors.New("the state folder cannot keep it")
)

// Longest is the longest time that a change may wait for its confirmation.
const Longest = 24 * time.Hour

// MaxFile bounds a file, in bytes, as config bounds one that it reads.
const MaxFile = 8 << 20

// Causes of a file in force, as history tells them.
const (
	CauseStart    = "start"    // the daemon began with it
	CauseEdit     = "edit"     // somebody edited the file, or put another one in its place
	CauseApply    = "apply"    // somebody applied it
	CauseRollback = "rollback" // somebody went back to it
	CauseBack     = "taken_back"
)

// refusals are the answers to who asks for what is not done.
var refusals = []struct {
	err    error
	status int
	code   string
}{
	{ErrPending, http.StatusConflict, "pending"},
	{ErrNothing, http.StatusConflict, "nothing_pending"},
	{ErrTakenBack, http.StatusConflict, "taken_back"},
	{ErrOther, http.StatusConflict, "other_change"},
	{ErrNoFile, http.StatusNotFound, "no_such_file"},
	{ErrNotKept, http.StatusInsufficientStorage, "not_kept"},
}

// refusal returns an error as the API answers it.
func refusal(err error) error {
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			return &control.Refusal{Code: r.code, Message: err.Error(), Status: r.status}
		}
	}
	return err
}

// Changer returns what the API asks for.
func (k *Keeper) Changer() control.Changer {
	return control.Changer{
		Apply: func(ctx context.Context, r control.ApplyRequest) (control.ApplyResult, error) {
			result, err := k.Apply(ctx, r)
			return result, refusal(err)
		},
		Rollback: func(ctx context.Context, r control.RollbackRequest) (control.ApplyResult, error) {
			result, err := k.Rollback(ctx, r)
			return result, refusal(err)
		},
		Confirm: func(ctx context.Context, by control.Asker, sum string) error {
			return refusal(k.Confirm(ctx, by, sum))
		},
		Files: k.Files,
		File: func(ctx context.Context, number int) (control.OneFile, error) {
			one, err := k.File(ctx, number)
			return one, refusal(err)
		},
	}
}
