package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

// A console is where commands of a page are typed: a network namespace with mounts of its
// own, as long as a process in it lives.
type console struct {
	dir    string
	holder *exec.Cmd
	path   string // PATH
}

// ownMounts gives a host what is one of a kind on a machine. It prints a line when done.
const ownMounts = `set -e
cd "$1"
mkdir -p etc work flannel wireguard cni bin home state
chown 65534 flannel wireguard state
mknod tun c 10 200
chmod 666 tun
mount --bind tun /dev/net/tun
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" /etc
mkdir -p /run/flannel /run/wireguard /var/lib/cni /run/netns /run/containers
mount --bind flannel /run/flannel
mount --bind wireguard /run/wireguard
mount --bind cni /var/lib/cni
mount -t tmpfs tmpfs /run/netns
mount -t tmpfs tmpfs /run/containers
echo ready
exec sleep 1200`

func newConsole(t *testing.T, h *nstest.Host, dir string) *console {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &console{dir: dir, path: filepath.Join(dir, "bin") + ":" + os.Getenv("PATH")}
	c.holder = exec.Command("nsenter", "--net=/run/netns/"+h.Namespace.Name, "unshare", "--mount",
		"--propagation", "private", "sh", "-c", ownMounts, "sh", dir)
	c.holder.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := c.holder.StdoutPipe()
	if err == nil {
		c.holder.Stderr = os.Stderr
		err = c.holder.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.holder.Process.Kill()
		_ = c.holder.Wait()
	})
	defer time.AfterFunc(patience, func() { _ = c.holder.Process.Kill() }).Stop() // ends the next read
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("a host's own mounts: %q, %v", line, err)
	}
	// There is no user meshd: nobody is.
	c.program(t, "chown", `exec /bin/chown "$(echo "$1" | sed s/meshd/65534/)" "$2"`)
	return c
}

// program puts a program of that name before all others.
func (c *console) program(t *testing.T, name, script string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, "bin", name), []byte("#!/bin/sh\n"+script+"\n"),
		0o755); err != nil {
		t.Fatal(err)
	}
}

// command returns a command that will run at the console.
func (c *console) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(
		"nsenter",
		append([]string{"-t", fmt.Sprint(c.holder.Process.Pid), "-m", "-n", name}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+c.path, "HOME="+filepath.Join(c.dir, "home"))
	cmd.Dir = filepath.Join(c.dir, "home")
	return cmd
}

// typed runs lines of a shell, for a minute at most.
func (c *console) typed(lines string) (string, error) {
	// Not a pipe: what a block leaves in the background would keep it open.
	out, err := os.CreateTemp(c.dir, "out")
	if err != nil {
		return "", err
	}
	defer out.Close()
	cmd := c.command("timeout", "60", "bash", "-eu", "-c", "cd ~\n"+lines)
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, readErr := os.ReadFile(out.Name())
	return string(text), errors.Join(err, readErr)
}

// meshd has the console know meshd, as the package installs it: systemctl starts and stops
// it, with a socket of its own.
func (c *console) meshd(t *testing.T, program string) {
	t.Helper()
	socket := filepath.Join(c.dir, "state", "meshd.sock")
	pid, log := filepath.Join(c.dir, "meshd.pid"), filepath.Join(c.dir, "meshd.log")
	c.program(t, "meshd", fmt.Sprintf(`exec %s "$@" --socket %s`, program, socket))
	c.program(t, "systemctl", fmt.Sprintf(`start() {
	service=$1; shift
	setsid flock %[3]s/$service timeout --foreground 900 setpriv --reuid=65534 --regid=65534 --clear-groups \
		--inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin --bounding-set=-all,+net_admin \
		"$@" >>%[2]s 2>&1 &
	echo $! >%[1]s.$service
}
stop() { [ ! -e %[1]s.$1 ] || { kill -- -$(cat %[1]s.$1); rm %[1]s.$1; flock %[3]s/$1 true; }; }
case "$*" in
"enable --now meshd") start runs meshd run ;;
"restart meshd") stop runs; start runs meshd run ;;
"disable --now meshd") stop runs ;;
"enable --now meshd-wireguard") start encrypts meshd wireguard-user ;;
"disable --now meshd-wireguard") stop encrypts ;;
"disable --now flanneld") echo >%[3]s/flanneld.stop; cat %[3]s/flanneld.stopped ;;
*) echo "systemctl $* is not played" >&2; exit 1 ;;
esac`, pid, log, c.dir))
	t.Cleanup(func() {
		for _, unit := range []string{"meshd", "meshd-wireguard"} {
			if out, err := c.typed("systemctl disable --now " + unit); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
		if text, _ := os.ReadFile(log); t.Failed() {
			t.Logf("meshd of %s:\n%s", c.dir, text)
		}
	})
}

// ends lets the systemctl of the console end something that the test plays.
func (c *console) ends(t *testing.T, unit string, end func()) {
	t.Helper()
	stop, stopped := filepath.Join(c.dir, unit+".stop"), filepath.Join(c.dir, unit+".stopped")
	if err := errors.Join(syscall.Mkfifo(stop, 0o600), syscall.Mkfifo(stopped, 0o600)); err != nil {
		t.Fatal(err)
	}
	go func() { // either end of a pipe waits until the other one is open, too
		if _, err := os.ReadFile(stop); err == nil {
			end()
			_ = os.WriteFile(stopped, nil, 0o600)
		}
	}()
	t.Cleanup(func() { // whoever waits there still
		if f, err := os.OpenFile(stop, os.O_RDWR, 0); err == nil {
			f.Close()
		}
	})
}

// awaited is output in which a text is waited for.
type awaited struct {
	text string
	came chan struct{} // closed when it was there

	mu  sync.Mutex
	all bytes.Buffer
}

func newAwaited(text string) *awaited { return &awaited{text: text, came: make(chan struct{})} }

// Write implements io.Writer.
func (a *awaited) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := bytes.Contains(a.all.Bytes(), []byte(a.text))
	a.all.Write(b)
	if !before && bytes.Contains(a.all.Bytes(), []byte(a.text)) {
		close(a.came)
	}
	return len(b), nil
}

func (a *awaited) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all.String()
}
