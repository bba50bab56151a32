package nstest

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A Terminal is a shell in a terminal of tmux, whose screen can be read and whose
// keys can be pressed.
type Terminal struct{ socket string }

// NewTerminal starts one of width by height cells, with its socket in dir, and waits
// until its shell asks for a command: what is typed before is echoed twice, or lost.
func NewTerminal(dir string, width, height int) (*Terminal, error) {
	t := &Terminal{socket: filepath.Join(dir, "tmux")}
	_, err := t.tmux("new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height),
		"PS1='$ ' TERM=screen-256color LC_ALL=C.UTF-8 sh -i", ";", "set-option", "-g", "status", "off")
	if err != nil {
		return nil, err
	}
	if _, err := t.Wait("the shell's prompt", func(screen string) bool {
		return strings.HasPrefix(screen,
			"$")
	}); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Attach is the command that shows the terminal in another one.
func (t *Terminal) Attach() []string { return []string{"tmux", "-u", "-S", t.socket, "attach-session"} }

// tmux runs a command of the terminal's own server: its socket is the test's, and /dev/null in the
// place of ~/.tmux.conf keeps a developer's settings out.
func (t *Terminal) tmux(args ...string) (string, error) {
	cmd := exec.Command("tmux", append([]string{"-u", "-S", t.socket, "-f", "/dev/null"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("tmux %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Screen returns what the terminal shows, a line for each of its rows.
func (t *Terminal) Screen() (string, error) { return t.tmux("capture-pane", "-p") }

// Type types a line of text and Enter.
func (t *Terminal) Type(line string) error {
	_, err := t.tmux("send-keys", "-l", line)
	return errors.Join(err, t.Press("Enter"))
}

// Press presses keys, by tmux's names: "q", "Enter", "C-z".
func (t *Terminal) Press(keys ...string) error {
	_, err := t.tmux(append([]string{"send-keys"}, keys...)...)
	return err
}

// Resize gives the terminal another size, in cells.
func (t *Terminal) Resize(width, height int) error {
	_, err := t.tmux("resize-window", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height))
	return err
}

// Wait waits for a screen that ok accepts, and returns it. A screen has no event to
// wait for.
func (t *Terminal) Wait(what string, ok func(screen string) bool) (string, error) {
	for deadline := time.Now().Add(Patience); ; {
		screen, err := t.Screen()
		if err != nil || ok(screen) {
			return screen, err
		}
		if time.Now().After(deadline) {
			return screen, fmt.Errorf("%s: not in time; the screen is\n%s", what, screen)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Close ends the terminal, and what runs in it.
func (t *Terminal) Close() error {
	_, err := t.tmux("kill-server")
	return err
}
