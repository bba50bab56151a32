package tui

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"

	"example.org/meshd/internal/control"
)

// answers is an asker that answers: each third ping is lost.
type answers struct {
	mute
	pings    int
	plan     control.Plan
	reload   control.ReloadResult
	route    control.Route
	document string // what Plan was asked about
	err      error
}

func (a *answers) Ping(_ context.Context, r control.PingRequest) (control.Ping, error) {
	a.pings++
	p := control.Ping{Peer: r.Peer, Size: 108}
	if a.pings%3 != 0 {
		p.RTTMS = new(float64(a.pings))
	}
	return p, a.err
}

func (a *answers) Plan(_ context.Context, _ string, doc []byte) (control.Plan, error) {
	a.document = string(doc)
	return a.plan, a.err
}

func (a *answers) Route(context.Context, netip.Addr) (control.Route, error) { return a.route, a.err }

func (a *answers) Reload(context.Context) (control.ReloadResult, error) { return a.reload, a.err }

func TestPingKey(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	a := &answers{}
	m.options.Asker = a
	press(m, "P")
	shows(t, m, "select a peer first")
	press(m, "2")
	perform(t, m, m.ping())
	shows(t, m, "ping edge-05 (108 bytes): 1.00 ms, 2.00 ms, no answer, 4.00 ms, 5.00 ms")
	a.err = errors.New("it broke")
	perform(t, m, m.ping())
	shows(t, m, "ping edge-05: it broke")
}

// An answer to a series that was given up for another one is ignored.
func TestLateAnswerToAPing(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "2", "P", "j", "P")
	send(m, pingMsg{peer: "edge-05", reply: control.Ping{RTTMS: new(1.0)}})
	shows(t, m, "ping edge-02 ...")
	hides(t, m, "1.00 ms")
	send(m, pingMsg{peer: "edge-02", reply: control.Ping{Error: "no route"}})
	shows(t, m, "ping edge-02 (0 bytes): no route")
}

// Over --host, and while nothing answers, there is somebody to watch at most.
func TestNobodyToAsk(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	m.options.Asker = nil
	for _, key := range []string{"P", "R"} {
		press(m, "2", key)
		shows(t, m, "not available with --host")
	}
	press(m, "c")
	shows(t, m, "not available with --host: run `meshd plan`")
	gone, _ := someDashboard(80, 24, asItIs)
	send(gone, lostMsg{gone.link.number, errGone})
	for _, key := range []string{"P", "R"} {
		press(gone, key)
		shows(t, gone, " meshd is not answering")
		if gone.bottom.question != nil {
			t.Error("asks whether nobody may reload")
		}
	}
}

func TestReloadQuestion(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "R")
	shows(t, m, "Read /etc/mesh.toml on edge-01 now?", "comparing ...")
	press(m, "j", "x") // no answers
	shows(t, m, "now?")
	press(m, "q") // answers the question, and nothing else
	hides(t, m, "now?")
	press(m, "R", "y")
	shows(t, m, "reloading ...")
	faulty := faultyScene(80, 24)
	var out strings.Builder
	faulty.options.Terminal = &out
	shows(t, faulty, "${EDITOR:-vi} +34 /etc/mesh.toml", "esc leave it")
	hides(t, faulty, "y reload", "y yes")
	perform(t, faulty, faulty.answered("e"))
	if want := ansi.SetSystemClipboard("${EDITOR:-vi} +34 /etc/mesh.toml"); out.String() != want {
		t.Errorf("copied %q, want %q", &out, want)
	}
	waiting := startingScene(80, 24)
	press(waiting, "R")
	shows(t, waiting, "no file is in force yet")
}

// What came of a reload stands in the last line.
func TestReloadOutcome(t *testing.T) {
	for name, test := range map[string]struct {
		result control.ReloadResult
		err    error
		want   string
	}{
		"applied": {control.ReloadResult{Generation: 13, Reload: control.Reload{OK: true, DurationMS: 41,
			Changes: []string{"+ peer edge-21", "and 7 more"}}}, nil,
			"generation 13 applied in 41 ms: + peer edge-21, and 7 more"},
		"nothing to do": {control.ReloadResult{Generation: 13, Reload: control.Reload{OK: true}}, nil,
			"generation 13: nothing to change"},
		"rejected": {control.ReloadResult{Generation: 13,
			Reload: control.Reload{Error: "x:1:2: error: no\nx:2:1: error: never"}}, nil,
			"rejected, still running generation 13: x:1:2: error: no (and 1 more)"},
		"not permitted": {control.ReloadResult{}, fmt.Errorf("%w: only root", control.ErrPermission),
			"reload: not permitted: only root"},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := someDashboard(120, 24, asItIs)
			m.options.Asker = &answers{reload: test.result, err: test.err}
			press(m, "R")
			perform(t, m, m.answered("y"))
			shows(t, m, test.want)
		})
	}
}

// The question is on screens of every size, with its answers.
func TestReloadQuestionShows(t *testing.T) {
	for _, size := range [][2]int{{140, 40}, {80, 24}, {40, 8}, {30, 6}, {11, 1}} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			m, _ := someDashboard(size[0], size[1], asItIs)
			press(m, "R")
			shows(t, m, "reload")
			press(m, "n")
			if m.bottom.question != nil {
				t.Error("still asked")
			}
		})
	}
	m, _ := someDashboard(80, 24, asItIs)
	press(m, "R")
	send(m, planMsg{plan: control.Plan{Changes: make([]string, 100)}})
	shows(t, m, "lines more: c shows all", "y reload")
}

// The clipboard is the terminal's.
func TestCopy(t *testing.T) {
	m, c := someDashboard(80, 24, asItIs)
	press(m, "2")
	var out strings.Builder
	m.options.Terminal = &out
	copied := func() string {
		text, _ := strings.CutPrefix(out.String(), "\x1b]52;c;")
		text, _ = strings.CutSuffix(text, "\x07")
		doc, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Errorf("%q: %v", out.String(), err)
		}
		out.Reset()
		return string(doc)
	}
	press(m, "y")
	shows(t, m, "copy of edge-05:  n name  a address  s subnets  r row  j JSON  esc")
	perform(t, m, m.key(keyOf('r')))
	shows(t, m, "row sent to the terminal (OSC 52); if nothing arrives: w writes a file")
	if got := copied(); got != "edge-05  stale  198.51.100.5:8285  10.5.0.0/16  6.85 ms  12%" {
		t.Errorf("%q", got)
	}
	for key, want := range map[rune]string{'n': "edge-05", 'a': "198.51.100.5:8285",
		's': "10.5.0.0/16 192.168.5.0/24"} {
		press(m, "y")
		if perform(t, m, m.key(keyOf(key))); copied() != want {
			t.Errorf("%c copies something else than %s", key, want)
		}
	}
	press(m, "y", "x", "esc") // no answer, and none wanted
	if m.bottom.question != nil || out.Len() > 0 {
		t.Errorf("copied %q", copied())
	}
	perform(t, m, m.copyJSON())
	shows(t, m, "JSON sent to the terminal")
	if got := copied(); !strings.Contains(got, `"name": "edge-05"`) {
		t.Errorf("%q", got)
	}
	press(m, "3")
	perform(t, m, m.key(keyOf('y')))
	if got := copied(); got != "2026-11-24T14:07:24Z warn edge-05 is stale: it does not answer (loss 12%)" {
		t.Errorf("%q", got)
	}
	c.now = c.now.Add(1e12)
	send(m, tickMsg(c.now))
	press(m, "2", "y")
	perform(t, m, m.key(keyOf('r')))
	if got := copied(); !strings.HasSuffix(got, "  as of 2026-11-24T14:07:52Z") {
		t.Errorf("old data is copied as if it were true: %q", got)
	}
}

// What can be copied is seen whatever the name is, also on a narrow terminal, which has the keys alone.
func TestCopyMenuFits(t *testing.T) {
	for w, want := range map[int]string{80: "n name  a address  s subnets  r row  j JSON  esc",
		60: "n name  a address  s subnets  r row  j JSON  esc", 40: "copy? n a s r j"} {
		t.Run(fmt.Sprint(w), func(t *testing.T) {
			m, _ := someDashboard(w, 24, cloudNames)
			press(m, "2", "y")
			shows(t, m, want)
		})
	}
}

// Nothing is shown or copied as a figure of a peer that is down: what was measured is of the past.
func TestFiguresOfAPeerThatIsDown(t *testing.T) {
	m, _ := someDashboard(80, 24, func(s *control.Status) *control.Status {
		for i := range s.Peers {
			if s.Peers[i].State == control.Down {
				s.Peers[i].Loss, s.Peers[i].RTTMS = new(0.39), new(7.77)
			}
		}
		return s
	})
	press(m, "2", "g")
	p, ok := m.view().selected()
	if !ok || p.State != control.Down {
		t.Fatalf("%+v is selected", p)
	}
	hides(t, m, "39%", "7.77")
	press(m, "enter")
	hides(t, m, "39%")
	if row := m.row(p); strings.Contains(row, "39%") || strings.Contains(row, "7.77") {
		t.Errorf("%q is copied", row)
	}
}

// A terminal that takes nothing more is an error, and no end.
func TestCopyFails(t *testing.T) {
	m, _ := someDashboard(80, 24, asItIs)
	m.options.Terminal = failing{}
	press(m, "2", "y")
	perform(t, m, m.key(keyOf('n')))
	shows(t, m, "copy: it is gone")
}

// failing is a writer that fails.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("it is gone") }

// A snapshot for a report is the API's object, in a file that only its owner can read.
func TestWriteSnapshot(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	m, _ := someDashboard(120, 24, asItIs)
	perform(t, m, m.write())
	shows(t, m, "snapshot written to "+os.TempDir()+"/meshtui-edge-01-20261124-140752-")
	files, err := filepath.Glob(os.TempDir() + "/*")
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	doc, err := os.ReadFile(files[0])
	if err != nil || !strings.Contains(string(doc), `"schema": 1`) {
		t.Errorf("%s, %v", doc, err)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	t.Setenv("TMPDIR", "/nonexistent")
	perform(t, m, m.write())
	shows(t, m, "write: ")
}
