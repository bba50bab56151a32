package daemon

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"example.org/meshd/internal/container"
)

// containerTask keeps the files for container runtimes as planned. That they cannot be
// written is a warning and no end: the mesh itself works without.
type containerTask struct {
	log  *slog.Logger
	note string // path of what container.Files remembers

	mu      sync.Mutex
	files   *container.Files // nil until the first plan
	wanted  container.Settings
	failure string // why they are not as planned; empty if they are
}

// ContainerNote is the path of the note of what files were written, beside a control
// socket.
func ContainerNote(socket string) string { return strings.TrimSuffix(socket, ".sock") + ".files" }

func newContainerTask(o Options) *containerTask {
	return &containerTask{log: o.Log, note: ContainerNote(o.Socket)}
}

func (t *containerTask) String() string { return "files for containers" }

// follow makes a plan's files the ones to keep, and writes them.
func (t *containerTask) follow(p *plan) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wanted = p.container
	return t.set()
}

// fine tells whether the files are as planned.
func (t *containerTask) fine() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failure == ""
}

// set makes the files match. The caller holds mu.
func (t *containerTask) set() error {
	if t.files == nil {
		files, err := container.New(t.note)
		if err != nil { // what an earlier run wrote is overwritten, or stays
			t.log.Warn("it is not known which files an earlier run wrote", "error", err, "event", "warning")
		}
		t.files = files
	}
	o := t.files.Set(t.wanted)
	for _, news := range o.News {
		t.log.Warn(news, "event", "files_restored")
	}
	failure := ""
	if err := errors.Join(o.Failed, o.Left); err != nil {
		failure = "files for containers are not as they should be: " + err.Error()
	}
	if failure != t.failure {
		t.failure = failure
		if failure != "" {
			t.log.Error(failure+": trying again", "event", "files_failed")
		} else {
			t.log.Info("files for containers are written", "event", "files_written")
		}
	}
	return o.Failed
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
		case <-tick.C:
			t.mu.Lock()
			if t.files != nil {
				_ = t.set() // said, and shown in status
			}
			t.mu.Unlock()
		}
	}
}

// warnings tells what is wrong with the files.
func (t *containerTask) warnings() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failure == "" {
		return nil
	}
	return []string{t.failure}
}
