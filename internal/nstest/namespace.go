// Package nstest makes hosts, networks and pods out of kernel network
// namespaces on this machine, for tests and for `make demo`. It is a room of
// its own because everything that needs a kernel to prove itself needs it.
//
//	namespace  a network stack of its own, named as `ip netns` names them
//	lab        hosts joined by an underlay switch
//	host       a namespace with an underlay interface eth0 and a pod bridge cni0
//	pod        a namespace with eth0 on its host's cni0
package nstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Require skips the test where namespaces cannot be made, or fails it if
// MESH_REQUIRE_NETNS=1, which CI sets so that nothing is skipped there.
func Require(t testing.TB) {
	t.Helper()
	Need(t, Available())
}

// RequirePrograms is Require for programs, by name or path. advice says how to get them.
func RequirePrograms(t testing.TB, advice string, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			Need(t, fmt.Errorf("%w: %s", err, advice))
		}
	}
}

// Need skips a test if err says what it lacks, or fails it where nothing may be skipped: with
// MESH_REQUIRE_NETNS=1.
func Need(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv("MESH_REQUIRE_NETNS") == "1":
		t.Fatalf("MESH_REQUIRE_NETNS=1, but %v", err)
	default:
		t.Skip(err)
	}
}

// Available returns nil if namespaces and TUN devices can be made here, else an
// error that says what is missing.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("no TUN driver: %w", err)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return fmt.Errorf("iproute2 is not installed: run `make deps`: %w", err)
	}
	return nil
}

// A Namespace is one network stack.
type Namespace struct{ Name string }

// New makes a namespace with its loopback up.
func New(name string) (*Namespace, error) {
	n := &Namespace{Name: name}
	if err := run("ip", "netns", "add", name); err != nil {
		return nil, err
	}
	if err := run("ip", "-n", name, "link", "set", "lo", "up"); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// ForTest makes a namespace that ends with the test.
func ForTest(t testing.TB) *Namespace {
	t.Helper()
	Require(t)
	n, err := New(uniqueName())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// Inside runs a test body on a thread in a namespace of its own. The body must
// not end the test with Fatal, since it has a goroutine of its own.
func Inside(t *testing.T, body func(t *testing.T, n *Namespace)) {
	t.Helper()
	n := ForTest(t)
	if err := n.Do(func() error { body(t, n); return nil }); err != nil {
		t.Fatal(err)
	}
}

// Close deletes the namespace; what is in it goes with its last user.
func (n *Namespace) Close() error { return run("ip", "netns", "del", n.Name) }

// Command returns a command that will run inside the namespace.
func (n *Namespace) Command(name string, args ...string) *exec.Cmd {
	// `ip netns exec` also mounts a /sys of the namespace, where programs look for interfaces; setns
	// alone would leave them this machine's.
	return exec.Command("ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
}

// longest is how long a command of Run and Ask may take. None of them takes that long by
// itself: one that hangs must not hang the test.
const longest = 2 * time.Minute

// Run runs a command inside the namespace and returns what it printed; the
// error holds that, too. After two minutes the command is killed.
func (n *Namespace) Run(name string, args ...string) (string, error) {
	cmd := n.Command(name, args...)
	out, err := combined(cmd)
	if err != nil {
		return string(out), fmt.Errorf("%s: %s %s: %w\n%s", n.Name, name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// combined is cmd.CombinedOutput for at most the longest time.
func combined(cmd *exec.Cmd) ([]byte, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := runFor(longest, cmd)
	return out.Bytes(), err
}

// runFor is cmd.Run for a time at most; then the command is killed, and the error says so.
func runFor(patience time.Duration, cmd *exec.Cmd) error {
	cmd.WaitDelay = 10 * time.Second // what it has started may hold its output open
	if err := cmd.Start(); err != nil {
		return err
	}
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	// False once the timer has fired: then the exit by SIGKILL is our doing and no fault of the
	// command.
	if !late.Stop() {
		return fmt.Errorf("killed after %v: %w", patience, err)
	}
	return err
}

// Background starts a command inside the namespace that ends with ctx, and with this
// process. What it prints is lost.
func (n *Namespace) Background(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := startFromLastingThread(cmd); err != nil {
		return fmt.Errorf("%s: start %s: %w", n.Name, name, err)
	}
	go func() { _ = cmd.Wait() }() // how it ends is nobody's concern
	return nil
}

// IP runs lines of `ip -batch` inside the namespace.
func (n *Namespace) IP(lines ...string) error {
	cmd := exec.Command("ip", "-n", n.Name, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: ip -batch: %w\n%s\n%s", n.Name, err, out, strings.Join(lines, "\n"))
	}
	return nil
}

// Do runs f on a thread that is inside the namespace. Sockets that f opens stay
// there; goroutines that f starts do not.
func (n *Namespace) Do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		defer close(result) // also when f ends the goroutine, as t.FailNow does
		runtime.LockOSThread()
		// The thread is never unlocked and so ends with the goroutine.
		result <- n.enter(f)
	}()
	return <-result
}

// enter moves this thread into the namespace, for good, and calls f.
func (n *Namespace) enter(f func() error) error {
	handle, err := os.Open(filepath.Join("/run/netns", n.Name))
	if err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	defer handle.Close()
	if err := unix.Setns(int(handle.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %q: %w", n.Name, err)
	}
	return f()
}

// Sysctl writes one setting below /proc/sys/net inside the namespace.
func (n *Namespace) Sysctl(key, value string) error {
	path := "/proc/sys/net/" + strings.ReplaceAll(key, ".", "/")
	return n.Do(func() error { return os.WriteFile(path, []byte(value), 0o644) })
}

// run runs a command on this machine; the error holds what it said.
func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
