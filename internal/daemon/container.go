package daemon

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"example.org/meshd/internal/container"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/plan"
)

// containerTask keeps the files for container runtimes as planned. That they cannot be
// written is a warning and no end: the mesh itself works without.
type containerTask struct {
	log  *slog.Logger
	note string // path of what container.Files remembers

	asked   chan filesRequest
	failure atomic.Pointer[string] // why they are not as planned; nil if they are

	// Of Run alone.
	files  *container.Files // nil until the first plan
	wanted *container.Settings
}

// filesRequest asks for files.
type filesRequest struct {
	wanted container.Settings
	reply  chan filesReply
}

type filesReply struct {
	before *container.Settings
	err    error
}

// ContainerNote is the path of the note of what files were written, beside a control
// socket.
func ContainerNote(socket string) string { return strings.TrimSuffix(socket, ".sock") + ".files" }

func newContainerTask(o Options) *containerTask {
	return &containerTask{log: o.Log, note: ContainerNote(o.Socket), asked: make(chan filesRequest)}
}

func (t *containerTask) String() string { return "files for containers" }

// fine tells whether the files are as planned.
func (t *containerTask) fine() bool { return t.failure.Load() == nil }

// apply is the part of a plan.
func (t *containerTask) apply(ctx context.Context, p *plan.Plan) (effect, error) {
	before, err := t.ask(ctx, p.Container)
	undo := func() error {
		if before == nil {
			return nil
		}
		_, err := t.ask(ctx, *before)
		return err
	}
	if err != nil {
		return effect{}, errors.Join(err, undo())
	}
	return effect{undo: undo}, nil
}

// ask has Run make files the ones to keep, and write them.
func (t *containerTask) ask(ctx context.Context, wanted container.Settings) (before *container.Settings, err error) {
	request := filesRequest{wanted, make(chan filesReply, 1)}
	select {
	case t.asked <- request:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case reply := <-request.reply:
		return reply.before, reply.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// filesEvery is how often the files are looked at.
const filesEvery = 2 * time.Second

// Run implements task: it restores files that somebody changed or removed.
func (t *containerTask) Run(ctx context.Context) error {
	tick := time.NewTicker(filesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-t.asked:
			before := t.wanted
			t.wanted = &r.wanted
			r.reply <- filesReply{before, t.set()}
		case <-tick.C:
			if t.wanted != nil {
				_ = t.set() // said, and shown in status
			}
		}
	}
}

// set makes the files match.
func (t *containerTask) set() error {
	if t.files == nil {
		files, err := container.New(t.note)
		if err != nil { // what an earlier run wrote is overwritten, or stays
			t.log.Warn("cannot read which files an earlier run wrote: they may stay", "error", err, "event", "warning")
		}
		t.files = files
	}
	o := t.files.Set(*t.wanted)
	for _, news := range o.News {
		t.log.Warn(news, "event", "files_restored")
	}
	var failure *string
	if err := errors.Join(o.Failed, o.Left); err != nil {
		failure = new(err.Error())
	}
	before := t.failure.Swap(failure)
	switch {
	case failure == nil && before != nil:
		t.log.Info("files for containers are written", "event", "files_written")
	case failure != nil && (before == nil || *before != *failure):
		t.log.Error("files for containers are not as planned: trying again", "error", *failure, "event", "files_failed")
	}
	return o.Failed
}

// conditions tells what is wrong with the files.
func (t *containerTask) conditions() []mesh.Condition {
	failure := t.failure.Load()
	if failure == nil {
		return nil
	}
	return []mesh.Condition{{Kind: mesh.FilesFailed, Severity: mesh.Degraded, Cause: *failure}}
}
