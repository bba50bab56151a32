package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

// screen is a terminal whose failures are the test's.
type screen struct {
	t *testing.T
	*nstest.Terminal
}

func newScreen(t *testing.T, width, height int) *screen {
	t.Helper()
	terminal, err := nstest.NewTerminal(t.TempDir(), width, height)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := terminal.Close(); err != nil {
			t.Error(err)
		}
	})
	return &screen{t, terminal}
}

// shows waits until all words are on the screen.
func (s *screen) shows(words ...string) string {
	s.t.Helper()
	shown, err := s.Wait(fmt.Sprintf("%q", words), func(shown string) bool {
		for _, w := range words {
			if !strings.Contains(shown, w) {
				return false
			}
		}
		return true
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return shown
}

// first waits until the first row of the table of peers begins with words.
func (s *screen) first(words string) {
	s.t.Helper()
	if _, err := s.Wait("first row "+words, func(shown string) bool {
		_, rows, _ := strings.Cut(shown, "SEEN")
		_, row, _ := strings.Cut(rows, "\n")
		return strings.HasPrefix(strings.TrimLeft(row, "> "), words)
	}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *screen) keys(keys ...string) {
	s.t.Helper()
	if err := s.Press(keys...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *screen) size(width, height int) {
	s.t.Helper()
	if err := s.Resize(width, height); err != nil {
		s.t.Fatal(err)
	}
}

func (s *screen) types(line string) {
	s.t.Helper()
	if err := s.Type(line); err != nil {
		s.t.Fatal(err)
	}
}

// The dashboard tells what really happens to a mesh, and leaves the terminal as it
// was.
func TestDashboard(t *testing.T) {
	nstest.Share(t, nstest.Resting)
	w := newWorld(t)
	m := &mesh{
		world: w,
		w2:    w.own(w.Worker2, often(t)),
		w:     w.own(w.Worker, often(t)),
		cp:    w.own(w.ControlPlane, often(t)),
	}
	s := newScreen(t, 80, 24)
	s.types("echo before")
	s.shows("before\nbefore\n") // else the shell prints it into the next line
	s.types(meshtui + " --socket " + m.w2.Socket)
	s.shows("worker2", "2 Peers 2/2", "● live 1s", "gen 1 ok")
	// Probes that a busy machine has lost meanwhile count until 60 others were sent: for a minute.
	for range 2 {
		isWell := func(shown string) bool { return strings.Contains(shown, "● OK  2 of 2") }
		if _, err := s.Wait("all is well", isWell); err == nil {
			break
		}
	}
	s.shows("● OK  2 of 2 peers up")

	// A peer that dies is the first thing one sees.
	m.w.Kill()
	s.shows("FAILED  1 DOWN", "DOWN    worker ", "10.244.1.0/24")
	s.keys("2")
	s.first("worker ")
	s.shows("■ DOWN", "[2 Peers 1/2]")

	// A filter and a sort act.
	s.keys("/", "c", "o", "n")
	s.shows("rows 1-1/1", "filter: con")
	s.keys("Enter", "Escape", "s")
	s.first("cont")
	s.keys("S")
	s.first("worker ")
	s.keys("S", "A")
	s.first("worker ")

	// Pings, and the peer's own screen.
	s.keys("/", "c", "o", "n", "Enter", "P")
	s.shows("ping control-plane (108 bytes): ", " ms, ")
	s.keys("Enter")
	s.shows("PEERS > control-plane", "rtt ms", "loss 0%", "same file", "-5m")
	s.keys("Escape", "Escape", "1")

	// A broken file changes nothing, and says where.
	save(t, m.w2, often(t)+"[[node]]\nname = 7\n")
	at := fmt.Sprintf("%d:1  node.address", strings.Count(often(t), "\n")+1)
	s.shows("FILE REJECTED", "still running generation 1", "file rejected")
	s.keys("c")
	s.shows("REJECTED", "still running generation 1", "ON DISK  cannot be applied")
	s.size(140, 40)
	s.shows(at)
	s.size(80, 24)
	save(t, m.w2, often(t)+fourth)
	s.shows("generation 2", "accepted")
	s.keys("Escape", "R")
	s.shows("now?", "the same as what runs")
	s.keys("y")
	s.shows("generation 2: nothing to change")

	// The daemon is restarted: the screen says so, and recovers.
	if _, err := m.w2.Stop(); err != nil {
		t.Error(err)
	}
	s.shows("■ disconnected", "meshd is not answering", m.w2.Socket, "systemctl status meshd")
	m.w2 = w.start(w.Worker2, m.w2.Config)
	s.shows("● live 1s", "gen 1 ok")
	s.keys("3")
	s.shows("meshd was restarted", "info  forwarding ")

	// Any size, at any moment.
	s.size(40, 8)
	s.shows("[3 Events]", "j k move", "? help  q quit")
	s.size(30, 6)
	s.shows("2 DOWN 1 up gen 1 ok")
	s.size(140, 40)
	s.keys("1")
	s.shows("FAILED  2 DOWN", "┌─ peers 3", "┌─ events ─", "RX 60s")
	s.size(80, 24)
	s.shows("TRAFFIC")

	// Suspended and resumed, and left: the shell's screen is as it was.
	s.keys("C-z")
	s.shows("$ echo before\nbefore\n", "[1]")
	s.types("fg; echo ended $?")
	s.shows("TRAFFIC", "● live 1s")
	s.keys("q")
	s.shows("before\n", "ended 0")
	s.types("stty -a | tr ' ;' '\\n\\n' | grep -cx -e icanon -e echo")
	s.shows("\n2\n")
}

// However it ends, the terminal is restored.
func TestDashboardIsEnded(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	s := newScreen(t, 80, 24)
	for _, signal := range []string{"TERM", "INT", "HUP", "QUIT"} {
		// Without a daemon it waits for one, and never gives up by itself.
		s.types("clear; " + meshtui + " --socket /nonexistent/meshd.sock & PID=$!; fg >/dev/null; echo ended $?")
		s.shows("meshd is not answering", "attempt 3")
		s.keys("C-z")
		s.shows("ended")
		s.types("clear; kill -" + signal + " $PID; fg; echo left $?")
		s.shows("left 0")
	}
	s.types("stty -a | tr ' ;' '\\n\\n' | grep -cx -e icanon -e echo")
	s.shows("\n2\n")
}

// A terminal that answers no question is asked none, and has its first picture all
// the same.
func TestMuteTerminal(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	d := newWorld(t).startAll(often(t)).w2
	master, tty, err := nstest.OpenPTY(80, 24)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	cmd := exec.Command(meshtui, "--socket", d.Socket)
	cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	var seen strings.Builder
	buffer := make([]byte, 65536)
	for !strings.Contains(seen.String(), "live 1s") {
		if err := master.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := master.Read(buffer)
		if err != nil {
			t.Fatalf("%v after %q", err, seen.String())
		}
		seen.Write(buffer[:n])
	}
	t.Logf("first picture after %v", time.Since(began).Round(time.Millisecond))
	for what, question := range map[string]string{"the background": "\x1b]11;?", "the cursor": "\x1b[6n",
		"the terminal's kind": "\x1b[c"} {
		if strings.Contains(seen.String(), question) {
			t.Errorf("it asks for %s: %q", what, seen.String())
		}
	}
	// A dropped ssh hangs up.
	master.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		_ = cmd.Process.Kill()
		t.Error("it stays when its terminal is gone")
	}
}

// SIGTERM ends it also where the terminal takes nothing more, as after ^S.
func TestBlockedTerminal(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	d := newWorld(t).startAll(often(t)).w2
	master, tty, err := nstest.OpenPTY(140, 40)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	cmd := exec.Command(meshtui, "--socket", d.Socket, "--interval", "100ms")
	cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := errors.Join(cmd.Start(), tty.Close()); err != nil {
		t.Fatal(err)
	}
	// Nobody reads: it is full when a writer waits in the kernel.
	eventually(t, "the terminal is full", func() (full bool) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/wchan", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			where, _ := os.ReadFile(thread) // it may have ended
			full = full || strings.Contains(string(where), "n_tty_write") ||
				strings.Contains(string(where), "wait_woken")
		}
		return full
	}, func() string { return "it takes everything" })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		_ = cmd.Process.Kill()
		t.Error("it stays when its terminal takes nothing")
	}
}

// Piped, it prints; the same daemon answers the API's object and a stream.
func TestDashboardWithoutTerminal(t *testing.T) {
	nstest.Share(t, nstest.Waiting)
	w := newWorld(t)
	d := w.own(w.Worker2, demoFile(t))
	ask := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(meshtui, append(args, "--socket", d.Socket)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	contains(t, ask(), "worker2  ", "listening on 172.18.0.3:8285", "PEER           STATE")
	contains(t, ask("--json"), `"node":"worker2"`)
	stream := exec.Command(meshtui, "--stream", "--socket", d.Socket)
	out, err := stream.StdoutPipe()
	if err == nil {
		err = stream.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(patience, func() { _ = stream.Process.Kill() }).Stop()
	line := make([]byte, 64)
	if _, err := io.ReadFull(out, line); err != nil ||
		!strings.HasPrefix(string(line), `{"type":"hello","seq":1,"hello":{"schema":1,"node":"worker2"`) {
		t.Errorf("%s, %v", line, err)
	}
	if err := errors.Join(stream.Process.Signal(syscall.SIGTERM), stream.Wait()); err != nil {
		t.Error(err)
	}
}
