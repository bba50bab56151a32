package tui

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
)

// A Watcher tells what a running meshd does. *control.Client is one; it says what
// Watch returns.
type Watcher interface {
	Watch(ctx context.Context, interval time.Duration, past bool, each func(control.Watched) error) error
}

// An Asker answers single questions. *control.Client is one; its methods say what
// they return. They may be called from several goroutines at once.
type Asker interface {
	History(ctx context.Context, peer, span string) (control.History, error)
	Ping(ctx context.Context, r control.PingRequest) (control.Ping, error)
	Reload(ctx context.Context) (control.ReloadResult, error)
	Plan(ctx context.Context, path string, doc []byte) (control.Plan, error)
	Route(ctx context.Context, to netip.Addr) (control.Route, error)
	Flows(ctx context.Context, q control.FlowQuery) (control.Flows, error)
	CountFlows(ctx context.Context, lease time.Duration, q control.FlowQuery) (control.Flows, error)
}

// The only code of this package that reads, asks or waits: commands, which Bubble Tea runs
// beside the model, and the messages that they come back with.

// What a command of ours comes back with. Those of a connection carry its number,
// since one that was given up may still have something to say.
type (
	linesMsg struct {
		connection int
		lines      []control.Watched
	}
	lostMsg struct {
		connection int
		err        error
	}
	retryMsg   struct{ connection int }
	muteMsg    struct{ connection int } // it is time that it says something
	tickMsg    time.Time
	historyMsg struct {
		key     historyKey
		history control.History
		err     error
	}
	pingMsg struct {
		peer  string
		n     int // how many were asked before
		reply control.Ping
		err   error
	}
	planMsg struct {
		plan control.Plan
		err  error
	}
	reloadMsg struct {
		result control.ReloadResult
		err    error
	}
	noticeMsg struct {
		text string
		bad  bool
	}
)

// historyKey names one history; an empty peer is the node.
type historyKey struct{ peer, span string }

// A feed is the connection to a meshd: run writes into it and pull takes out of it, each in
// a goroutine of its own. Bubble Tea takes one message from one command, so what arrives in
// a burst, such as 2,000 events at first, is handed on together and drawn once.
type feed struct {
	number int
	lines  chan control.Watched
	cancel context.CancelFunc
	ctx    context.Context
}

// feedRoom is how many lines wait while the screen is busy. After that the daemon
// waits, and leaves snapshots out.
const feedRoom = 32

// newFeed returns a connection that has not begun.
func newFeed(number int) *feed {
	ctx, cancel := context.WithCancel(context.Background())
	return &feed{number: number, lines: make(chan control.Watched, feedRoom), cancel: cancel, ctx: ctx}
}

// run is the connection from its beginning to its end, which is a lostMsg in any case: a
// daemon that stops in good order is as lost as one that dies.
func (f *feed) run(w Watcher, interval time.Duration) tea.Cmd {
	return func() tea.Msg {
		err := w.Watch(f.ctx, interval, true, func(line control.Watched) error {
			select {
			case f.lines <- line:
				return nil
			case <-f.ctx.Done():
				return f.ctx.Err()
			}
		})
		if err == nil {
			err = errors.New("meshd closed the connection: it stopped or is overloaded")
		}
		f.cancel()
		return lostMsg{f.number, err}
	}
}

// pull waits for the next lines, and takes all that are there. It comes back with none when
// there are no more; the model asks again after each message.
func (f *feed) pull() tea.Msg {
	msg := linesMsg{connection: f.number}
	select {
	case line := <-f.lines:
		msg.lines = append(msg.lines, line)
	case <-f.ctx.Done():
		return msg
	}
	for {
		select {
		case line := <-f.lines:
			msg.lines = append(msg.lines, line)
		default:
			return msg
		}
	}
}

// Bounds of questions. A reload waits for the kernel.
const (
	askTimeout    = 5 * time.Second
	reloadTimeout = 30 * time.Second
)

// ask makes a command of a question that ends.
func ask(timeout time.Duration, f func(ctx context.Context) tea.Msg) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		return f(ctx)
	}
}

// askHistory asks for a chart.
func askHistory(source Asker, key historyKey) tea.Cmd {
	return ask(askTimeout, func(ctx context.Context) tea.Msg {
		h, err := source.History(ctx, key.peer, key.span)
		return historyMsg{key, h, err}
	})
}

// Pings of one press of the key.
const (
	pings     = 5
	pingEvery = 200 * time.Millisecond
)

// askPing asks for one ping; n were asked for before.
func askPing(source Asker, peer string, n int) tea.Cmd {
	return ask(askTimeout, func(ctx context.Context) tea.Msg {
		reply, err := source.Ping(ctx, control.PingRequest{Peer: peer})
		return pingMsg{peer, n, reply, err}
	})
}

// askReload has the daemon read its file. That is for root and the group mesh-admin; for
// others the answer is a control.ErrPermission.
func askReload(source Asker) tea.Cmd {
	return ask(reloadTimeout, func(ctx context.Context) tea.Msg {
		result, err := source.Reload(ctx)
		return reloadMsg{result, err}
	})
}

// askPlan reads the file and asks the daemon what it would change. The file is read here,
// by the user who looks at it: a path in the question would have the daemon read for others.
func askPlan(source Asker, path string) tea.Cmd {
	return ask(askTimeout, func(ctx context.Context) tea.Msg {
		doc, err := os.ReadFile(path)
		if err != nil {
			return planMsg{err: err}
		}
		plan, err := source.Plan(ctx, path, doc)
		return planMsg{plan, err}
	})
}
