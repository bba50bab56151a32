package tui

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"example.org/meshd/internal/control"
)

// A daemon that is gone is tried again, ever later; its data stays, as old.
func TestLosingTheDaemon(t *testing.T) {
	m, c := someDashboard(80, 24, asItIs)
	var waits []time.Duration
	for range 6 {
		send(m, lostMsg{m.link.number, errGone})
		waits = append(waits, m.link.lost.retry.Sub(m.now))
		c.forward(waits[len(waits)-1])
		was := m.link.number
		send(m, retryMsg{m.link.number})
		if m.link.number != was+1 || !m.link.lost.retry.IsZero() {
			t.Errorf("no new connection: %+v", m.link.lost)
		}
	}
	if got := fmt.Sprint(waits); got != "[500ms 1s 2s 4s 5s 5s]" {
		t.Error(got)
	}
	shows(t, m, "disconnected", "DATA 17 s OLD", "meshd is not answering", "nobody answers",
		"? UNKNOWN  no data for 17 s (was FAILED at 14:07:52)")
	press(m, "2")
	shows(t, m, "edge-05", "  -  ")
	press(m, "1")
	tell(m, hello("5d2e6f70"), snapshot(someMesh(37)))
	shows(t, m, "● live 1s")
	hides(t, m, "not answering", "OLD")
	if m.link.attempts != 0 {
		t.Error("the next loss begins with long waits")
	}
}

// What a connection that was given up still says is not heard.
func TestOldConnectionIsNotHeard(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	send(m, lostMsg{m.link.number, errGone})
	old := m.link.number
	press(m, "r")
	late := errors.New("late")
	send(m, lostMsg{old, late}, linesMsg{old, []control.Watched{hello("z")}}, retryMsg{old}, muteMsg{old})
	if m.data.boot != "5d2e6f70" || errors.Is(m.link.lost.err, late) || m.link.number != old+1 {
		t.Errorf("an old connection was heard: %+v", m.link)
	}
}

// r does not wait, and leaves a connection alone that works.
func TestRetryNow(t *testing.T) {
	m, _ := newTest(80, 24)
	send(m, lostMsg{m.link.number, errGone})
	was := m.link.number
	press(m, "r")
	if m.link.number != was+1 {
		t.Error("not tried")
	}
	tell(m, hello("x"), snapshot(someMesh(0)))
	press(m, "r")
	if m.link.number != was+1 {
		t.Error("a connection that works was given up")
	}
}

// A daemon that accepts and says nothing is said to hang, and tried again.
func TestMute(t *testing.T) {
	m, _ := newTest(80, 24)
	was := m.link.number
	send(m, muteMsg{was})
	shows(t, m, "connected, but meshd sent nothing for 4s: it hangs", "no data from meshd")
	if m.link.lost == nil || m.link.lost.retry.IsZero() {
		t.Error("it is not tried again")
	}
	send(m, lostMsg{was, errors.New("context canceled")}) // of the connection that was given up
	hides(t, m, "context canceled")
	m.connect()
	tell(m, hello("x"), snapshot(someMesh(0)))
	send(m, muteMsg{m.link.number})
	shows(t, m, "● live")
}

// Without a socket, the picture always says the same and the truth: no timer of a connection that has
// ended may claim that meshd hangs.
func TestTwentySecondsWithoutASocket(t *testing.T) {
	type alarm struct {
		at  time.Time
		msg tea.Msg
	}
	m, c := newTest(80, 24)
	var alarms []alarm
	m.after = func(d time.Duration, msg tea.Msg) tea.Cmd {
		alarms = append(alarms, alarm{c.now.Add(d), msg})
		return nil
	}
	m.connect()
	for range 25 * 20 {
		due := slices.DeleteFunc(slices.Clone(alarms), func(a alarm) bool { return a.at.After(c.now) })
		alarms = slices.DeleteFunc(alarms, func(a alarm) bool { return !a.at.After(c.now) })
		for _, a := range due {
			send(m, a.msg)
		}
		if m.link.state == opening {
			send(m, lostMsg{m.link.number, notRunning})
		}
		send(m, tickMsg(c.now))
		shows(t, m, "meshd is not answering", "no process answers at", "sudo systemctl start meshd")
		hides(t, m, "hangs", "no data from meshd")
		if t.Failed() {
			t.Fatalf("after %v", c.now.Sub(noon))
		}
		c.forward(50 * time.Millisecond)
	}
	if m.link.attempts < 6 {
		t.Errorf("tried %d times in 25 s", m.link.attempts)
	}
}

// Lines of a connection that come after its end are not heard: they would end the attempts to connect.
func TestLateLinesOfALostConnection(t *testing.T) {
	m, _ := newTest(80, 24)
	send(m, lostMsg{m.link.number, errGone})
	tell(m, hello("x"), snapshot(someMesh(0)))
	if m.data.status != nil || m.link.lost == nil {
		t.Error("a connection that has ended was heard")
	}
	send(m, retryMsg{m.link.number})
	tell(m, hello("x"), snapshot(someMesh(0)))
	shows(t, m, "● live")
}

// ssh takes longer to say something than a socket of this host.
func TestPatience(t *testing.T) {
	m, _ := newTest(80, 24)
	local := m.patience()
	m.options.Asker = nil
	if remote := m.patience(); remote <= local {
		t.Errorf("%v for ssh, %v here", remote, local)
	}
}

// A daemon that says nothing any more is not live, though connected.
func TestSilence(t *testing.T) {
	m, c := someDashboard(80, 24, asItIs)
	c.forward(3 * time.Second)
	send(m, tickMsg(c.now))
	shows(t, m, "● live 1s")
	c.forward(2 * time.Second)
	send(m, tickMsg(c.now))
	shows(t, m, "■ silent", "no data for 5 s", "meshd (pid 812) hangs")
	tell(m, snapshot(someMesh(25)))
	shows(t, m, "● live 1s")
}

// A pause holds the picture, not the connection.
func TestPause(t *testing.T) {
	m, c := someDashboard(80, 24, asItIs)
	press(m, "p")
	c.forward(30 * time.Second)
	tell(m, snapshot(rejected(someMesh(50))))
	shows(t, m, "◐ paused 30 s", "last heard 28 s ago")
	hides(t, m, "FILE")
	press(m, " ")
	tell(m, snapshot(rejected(someMesh(51))))
	shows(t, m, "FILE ", "/etc/mesh.toml:31:12", "still running generation 12", "FILE REJECTED")
}

// A pause ends with the daemon that was looked at.
func TestPauseAndRestart(t *testing.T) {
	m, _ := newTest(80, 24)
	press(m, "p")
	tell(m, hello("x"), snapshot(someMesh(0)))
	shows(t, m, "paused", "edge-01")
	s := someMesh(0)
	s.BootID, s.Node = "y", "edge-77"
	tell(m, snapshot(s))
	shows(t, m, "edge-77")
	small, _ := someDashboard(30, 6, asItIs)
	press(small, "p")
	shows(t, small, "PAUSED 1 DOWN 1 stale 17 up")
}

// The box says what to do for each way to lose a daemon. Advice that an error carries is
// shown once: in the place for advice.
func TestLostBox(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		title string
		says  string
	}{
		"not running": {notRunning, "meshd is not answering", "sudo systemctl start meshd"},
		"denied": {fmt.Errorf("%w: it is for root", control.ErrPermission), "not permitted",
			"usermod -aG mesh"},
		"mismatch": {fmt.Errorf("%w: 2", control.ErrMismatch), "another version", "meshtui --version"},
		"else":     {errors.New("it broke"), "no data from meshd", "journalctl -u meshd"},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := newTest(80, 24)
			send(m, lostMsg{m.link.number, test.err})
			shows(t, m, test.title, test.says)
			hides(t, m, "see `systemctl")
		})
	}
}

// Another pace is another connection, since the daemon has to know.
func TestPace(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	was := m.link.number
	press(m, "+")
	if m.options.Interval != 500*time.Millisecond || m.link.number != was+1 {
		t.Errorf("interval %v, connection %d", m.options.Interval, m.link.number)
	}
	press(m, "+") // there is none that is faster
	if m.link.number != was+1 {
		t.Error("connected again for nothing")
	}
	press(m, "-", "-", "-", "-", "-", "-")
	if m.options.Interval != 10*time.Second {
		t.Errorf("interval %v", m.options.Interval)
	}
}
