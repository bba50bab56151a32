package survey

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"time"

	"example.org/meshd/internal/resolve"
	"example.org/meshd/internal/state"
)

// This file keeps the last good answers over restarts: a host that boots while DNS is away, or is reached
// through the mesh alone, finds its peers by them.

// keptFile is the name of the file in the state folder, and keptMost bounds it, in bytes. 10,000 names take
// about one MiB.
const (
	keptFile = "names"
	keptMost = 8 << 20
)

// keptAnswer is one answer in the file.
type keptAnswer struct {
	Addrs []netip.Addr `json:"addresses"`
	At    time.Time    `json:"at"`
}

// keptAnswers reads the answers that an earlier run has kept. A file that makes no sense counts as none.
func keptAnswers(folder string, log *slog.Logger) map[string]resolve.Answer {
	doc, err := state.Timely(func() ([]byte, error) { return state.Read(folder, keptFile, keptMost) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var all map[string]keptAnswer
	if err == nil {
		err = json.Unmarshal(doc, &all)
	}
	if err != nil {
		log.Warn("cannot read the addresses that names had before: asking for all of them", "folder", folder,
			"error", err, "event", "names_unread")
		return nil
	}
	answers := map[string]resolve.Answer{}
	for name, one := range all {
		answers[name] = resolve.Answer{Addrs: one.Addrs, At: one.At}
	}
	return answers
}

// keep writes the answers whenever they have changed, until ctx ends. The file system may hang: nothing
// waits for keep.
func (n Names) keep(ctx context.Context) {
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.news:
		}
		all := map[string]keptAnswer{}
		for name, a := range n.Answers() {
			if len(a.Addrs) > 0 {
				all[name] = keptAnswer{a.Addrs, a.At}
			}
		}
		doc, err := json.Marshal(all)
		if err == nil {
			err = state.Note(n.folder, keptFile, doc)
		}
		if err != nil && !failed {
			n.log.Warn("cannot keep the addresses of names for the next start", "error", err,
				"event", "state_failed")
		}
		failed = err != nil
	}
}

// Run implements a task: it asks for names, and keeps what they stand for.
func (n Names) Run(ctx context.Context) error {
	if n.folder != "" {
		go n.keep(ctx)
	}
	return n.Resolver.Run(ctx)
}
