package tui

import (
	"bytes"
	"context"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/exp/teatest"

	"example.org/meshd/internal/control"
)

// script is a watcher that says what a test lets it say.
type script struct {
	mute
	lines chan control.Watched
	end   chan error
}

func (s *script) Watch(ctx context.Context, _ time.Duration, _ bool, each func(control.Watched) error) error {
	for {
		select {
		case l := <-s.lines:
			if err := each(l); err != nil {
				return err
			}
		case err := <-s.end:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// The whole program: it connects, draws, obeys keys, loses the daemon, finds it
// again, and quits.
func TestLoop(t *testing.T) {
	s := &script{lines: make(chan control.Watched), end: make(chan error)}
	m := New(Options{Watcher: s, Asker: s, Where: "somewhere", Interval: time.Second})
	program := teatest.NewTestModel(t, m, teatest.WithInitialTermSize(80, 24))
	wait := func(words string) {
		t.Helper()
		teatest.WaitFor(t, program.Output(), func(b []byte) bool { return bytes.Contains(b, []byte(words)) },
			teatest.WithDuration(20*time.Second))
	}
	wait("connecting to somewhere")
	s.lines <- hello("x")
	for i := range 3 {
		s.lines <- snapshot(someMesh(i))
	}
	wait("FAILED")
	program.Send(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("2")})
	wait("rows 1-13/19")
	program.Send(tea.WindowSizeMsg{Width: 140, Height: 40})
	program.Send(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("1")})
	wait("┌─ peers")
	s.end <- errGone
	wait("meshd is not answering")
	s.lines <- hello("y") // a second connection was made by itself
	s.lines <- snapshot(someMesh(4))
	wait("live")
	program.Send(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("q")})
	program.WaitFinished(t, teatest.WithFinalTimeout(20*time.Second))
	m.Close()
}
