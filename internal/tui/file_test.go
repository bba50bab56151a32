package tui

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"example.org/meshd/internal/control"
	"example.org/meshd/internal/tui/cell"
)

// The file on disk is compared by the daemon, and read by whoever looks.
func TestLook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.toml")
	if err := os.WriteFile(path, []byte("the file"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, _ := someDashboard(80, 24, func(s *control.Status) *control.Status { s.Config.Path = path; return s })
	a := &answers{plan: control.Plan{Changes: []string{"- peer edge-14 10.14.0.0/16"},
		Details: []control.Change{{Op: "-", Kind: "peer", Subject: "edge-14", Old: "10.14.0.0/16"}}}}
	m.options.Asker = a
	perform(t, m, m.look())
	shows(t, m, "would change on reload (R):", "- peer edge-14 10.14.0.0/16")
	if a.document != "the file" {
		t.Errorf("asked about %q", a.document)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	perform(t, m, m.look())
	shows(t, m, "cannot be applied:", "no such file")
}

// The command that edits a faulty file begins at its first fault, and a shell finds nothing in its path.
func TestEditCommand(t *testing.T) {
	at := func(lines ...int) (d onDisk) {
		bad := &control.Rejection{Message: "no"}
		for _, line := range lines {
			bad.Faults = append(bad.Faults, control.Error{Line: line})
		}
		return onDisk{asked: true, err: fmt.Errorf("plan: %w", bad)}
	}
	for name, test := range map[string]struct {
		disk       onDisk
		path, want string
	}{
		"two faults":     {at(34, 7), "/etc/mesh.toml", "${EDITOR:-vi} +34 /etc/mesh.toml"},
		"no line":        {at(0), "/etc/mesh.toml", "${EDITOR:-vi} /etc/mesh.toml"},
		"no faults":      {at(), "/etc/mesh.toml", "${EDITOR:-vi} /etc/mesh.toml"},
		"another error":  {onDisk{err: errGone}, "/etc/mesh.toml", "${EDITOR:-vi} /etc/mesh.toml"},
		"an evil path":   {at(1), "/x/$(id) 'a", `${EDITOR:-vi} +1 '/x/$(id) '\''a'`},
		"a line of a sh": {at(1), "/x\nid", `${EDITOR:-vi} +1 '/x\nid'`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.disk.edit(test.path); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// What is known of the file on disk, in each case.
func TestDiskLines(t *testing.T) {
	for name, test := range map[string]struct {
		disk onDisk
		want string
		role cell.Role
	}{
		"not yet":  {onDisk{}, "comparing ...", cell.Dim},
		"the same": {onDisk{asked: true}, "the same as what runs", cell.Good},
		"a fault": {onDisk{asked: true, err: errors.New("x:1:1: error: no")}, "cannot be applied:",
			cell.Bad},
		"nobody answers": {onDisk{asked: true, err: errGone}, "not compared:", cell.Dim},
		"not permitted": {onDisk{asked: true, err: fmt.Errorf("%w", control.ErrPermission)}, "not compared:",
			cell.Dim},
		"too late": {onDisk{asked: true, err: context.DeadlineExceeded}, "not compared:", cell.Dim},
		"changes": {onDisk{asked: true, plan: control.Plan{Changes: []string{"x"}}},
			"would change on reload (R):", cell.Warn},
	} {
		t.Run(name, func(t *testing.T) {
			v := view{data: &data{disk: test.disk}, canAsk: true}
			last := diskLines(v, 80)[0]
			if got := last[len(last)-1]; got.Text != test.want || got.Role != test.role {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Changes are coloured by the operation that stands beside their sentence. A sentence alone has
// no colour, whatever it begins with.
func TestChangeLines(t *testing.T) {
	for op, want := range map[string]cell.Role{
		"+": cell.Good, "-": cell.Bad, "~": cell.Strong, "*": cell.Strong, "?": cell.Plain,
	} {
		t.Run("operation "+op, func(t *testing.T) {
			lines := changeLines([]string{"a sentence", "+ and 3 more"}, []control.Change{{Op: op}})
			if len(lines) != 2 || lines[0].String() != "a sentence" || lines[0][0].Role != want ||
				lines[1][0].Role != cell.Plain {
				t.Errorf("%+v", lines)
			}
		})
	}
	if lines := changeLines(nil, []control.Change{{Op: "+"}}); len(lines) != 0 {
		t.Errorf("values without sentences: %+v", lines)
	}
}

// Which peers run another file, and which have not said.
func TestDriftLines(t *testing.T) {
	told := func(answers ...*bool) *control.Status {
		s := &control.Status{}
		for i, answer := range answers {
			s.Peers = append(s.Peers, control.Peer{Name: fmt.Sprint("p", i), State: control.Up, ConfigMatch: answer,
				ConfigSHA256: "00c0ffee"})
		}
		return s
	}
	for name, test := range map[string]struct {
		status *control.Status
		want   string
	}{
		"all the same":  {told(new(true), new(true)), " PEERS    run the same file"},
		"none has said": {told(nil, nil), " PEERS    no peer has reported its file"},
		"some have":     {told(nil, new(true)), " PEERS    run the same file   (1 have not reported)"},
		"one is another": {told(new(false), new(true), nil),
			" PEERS    1 of 3 run another file:   (1 have not reported)"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := driftLines(test.status)[0].String(); got != test.want {
				t.Errorf("%q, not %q", got, test.want)
			}
		})
	}
}

// The page shows why an engine was chosen, and problems of this host in full.
func TestFilePage(t *testing.T) {
	m, _ := someDashboard(80, 40, rejected)
	press(m, "c")
	shows(t, m, "REJECTED 14:06:58  -- still running generation 12", "node.x: unknown key",
		"PROBLEMS", "pods cannot reach other hosts; run", "ENGINE", "CAP_BPF", "1 of 19 run another file:",
		"edge-07")
	fine, _ := someDashboard(80, 40, asItIs)
	press(fine, "c")
	shows(t, fine, "accepted 14:02:33 in 41 ms: + peer edge-20 10.20.0.0/16")
	hides(t, fine, "PROBLEMS", "ENGINE")
	starting := startingScene(80, 40)
	press(starting, "c")
	shows(t, starting, "not in force yet", "no node of /etc/mesh.toml has an address")
}
