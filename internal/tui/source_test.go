package tui

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
)

// spoken is a watcher that says lines and ends.
type spoken struct {
	lines []control.Watched
	err   error
}

func (s spoken) Watch(_ context.Context, _ time.Duration, past bool, each func(control.Watched) error) error {
	if !past {
		return errors.New("events of the past are not asked for")
	}
	for _, l := range s.lines {
		if err := each(l); err != nil {
			return err
		}
	}
	return s.err
}

// Lines that are there are handed on together; the end of a connection is a loss.
func TestFeed(t *testing.T) {
	f := newFeed(7)
	end := f.run(spoken{lines: []control.Watched{hello("x"), snapshot(someMesh(0)), news("info", "a")},
		err: errGone}, time.Second)()
	lost, ok := end.(lostMsg)
	if !ok || lost.connection != 7 || !errors.Is(lost.err, errGone) {
		t.Errorf("%+v", end)
	}
	told, types := 0, ""
	for told < 3 { // which of the lines and the end is taken first is up to the scheduler
		msg, ok := f.pull().(linesMsg)
		if !ok || msg.connection != 7 {
			t.Fatalf("%+v", msg)
		}
		if len(msg.lines) == 0 {
			break
		}
		for _, l := range msg.lines {
			types += " " + l.Type
		}
		told += len(msg.lines)
	}
	if told != 0 && types != " hello snapshot event" {
		t.Errorf("%d lines:%s", told, types)
	}
}

// A burst is one message.
func TestFeedOfABurst(t *testing.T) {
	f := newFeed(1)
	for range 5 {
		f.lines <- news("info", "x")
	}
	if msg := f.pull().(linesMsg); len(msg.lines) != 5 {
		t.Errorf("%d lines at once", len(msg.lines))
	}
}

// A connection that ends in good order has ended all the same.
func TestFeedEndsWithoutAnError(t *testing.T) {
	end := newFeed(1).run(spoken{}, time.Second)().(lostMsg)
	if end.err == nil {
		t.Error("nobody would try again")
	}
}

// A feed that was given up neither says more nor holds up the watcher.
func TestFeedIsCancelled(t *testing.T) {
	f := newFeed(1)
	f.cancel()
	lines := make([]control.Watched, 10*feedRoom) // more than wait for a screen
	if end := f.run(spoken{lines: lines}, time.Second)().(lostMsg); !errors.Is(end.err, context.Canceled) {
		t.Errorf("%v", end.err)
	}
	m, _ := newTest(80, 24)
	m.Close()
	m.Close() // twice is once
	if msg := m.link.feed.pull().(linesMsg); len(msg.lines) != 0 {
		t.Errorf("%d lines", len(msg.lines))
	}
}

// Each question comes back with its answer or its error, and with what it was about.
func TestQuestions(t *testing.T) {
	key := historyKey{"edge-05", "1h"}
	if msg := askHistory(mute{}, key)().(historyMsg); msg.key != key || msg.err == nil {
		t.Errorf("%+v", msg)
	}
	if msg := askPing(mute{}, "edge-05", 3)().(pingMsg); msg.peer != "edge-05" || msg.n != 3 || msg.err == nil {
		t.Errorf("%+v", msg)
	}
	if msg := askReload(mute{})().(reloadMsg); msg.err == nil {
		t.Errorf("%+v", msg)
	}
	path := filepath.Join(t.TempDir(), "mesh.toml")
	if msg := askPlan(mute{}, path)().(planMsg); !errors.Is(msg.err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %+v", msg)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if msg := askPlan(mute{}, path)().(planMsg); msg.err == nil || errors.Is(msg.err, os.ErrNotExist) {
		t.Errorf("%+v", msg)
	}
}

// A question that is not answered ends.
func TestQuestionsEnd(t *testing.T) {
	msg := ask(0, func(ctx context.Context) tea.Msg {
		<-ctx.Done()
		return ctx.Err()
	})()
	if err, ok := msg.(error); !ok || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", msg)
	}
}

// A new dashboard connects and keeps time by itself.
func TestInit(t *testing.T) {
	m := New(Options{Watcher: mute{}, Asker: mute{}, Interval: time.Second})
	t.Cleanup(m.Close)
	if m.Init() == nil || m.link.number != 1 || m.now.IsZero() {
		t.Errorf("%+v", m.link)
	}
}
