package nstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Daemon is a meshd running on a host of the lab.
type Daemon struct {
	Host   *Host
	Binary string
	Config string
	Socket string
	Run    string // its own /run/flannel

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // why, good once done is closed

	mu   sync.Mutex
	log  bytes.Buffer
	grew chan struct{} // closed and replaced whenever log grows
}

// Meshd starts `BINARY run -c CONFIG` on the host, with its control socket in
// dir, and returns without waiting for it to be ready. It dies with this
// process.
func (h *Host) Meshd(binary, config, dir string, args ...string) (*Daemon, error) {
	return h.MeshdService(nil, binary, config, dir, args...)
}

// MeshdService is Meshd, started by a service manager unless that is nil.
func (h *Host) MeshdService(s *Service, binary, config, dir string, args ...string) (*Daemon, error) {
	var by []string
	if s != nil {
		by = []string{"sh", "-c", asService, "sh"}
	}
	d := h.daemon(by, binary, config, dir, args)
	if s != nil {
		defer s.prepare(d.cmd)()
	}
	return d, d.start()
}

// MeshdBy is Meshd, started by another command whose last arguments it is.
func (h *Host) MeshdBy(by []string, binary, config, dir string) (*Daemon, error) {
	d := h.daemon(by, binary, config, dir, nil)
	return d, d.start()
}

// daemon prepares a meshd that start starts; by is a command in front of its own, or nil.
func (h *Host) daemon(by []string, binary, config, dir string, args []string) *Daemon {
	d := &Daemon{
		Host: h, Binary: binary, Config: config, Socket: filepath.Join(dir, h.name+".sock"), Run: filepath.Join(dir,
			h.name+".run"),
		done: make(chan struct{}), grew: make(chan struct{}),
	}
	line := slices.Concat(d.private(), by, []string{binary, "run", "-c", config, "--socket", d.Socket}, args)
	d.cmd = h.Command(line[0], line[1:]...)
	return d
}

// private returns a command whose arguments are one that runs with a /run/flannel, a /run/wireguard and a
// BPF file system of its own, where hosts are only namespaces of one machine: `ip netns exec` has made a
// mount namespace for it. /run/wireguard is the host's, shared by its processes.
func (d *Daemon) private() []string {
	script := `mkdir -p "$0" /run/flannel && mount --bind "$0" /run/flannel &&
		mount --bind "$1" /sys/fs/bpf && shift && exec "$@"`
	return slices.Concat(d.Host.withWireGuard(), []string{"sh", "-c", script, d.Run, d.Host.Lab.bpffs})
}

// start starts the process and collects its end. Who waits for it waits for done: Wait may be called
// once only.
func (d *Daemon) start() error {
	d.cmd.Stderr = (*daemonLog)(d)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := startFromLastingThread(d.cmd); err != nil {
		return fmt.Errorf("start meshd on %s: %w", d.Host.name, err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	return nil
}

// startFromLastingThread starts a command with a parent death signal. The kernel
// sends that when the *thread* that started the child ends (prctl(2)), and
// threads do end here, see Do; so one that never ends starts all daemons.
func startFromLastingThread(cmd *exec.Cmd) error {
	started := make(chan error)
	launcher() <- func() { started <- cmd.Start() }
	return <-started
}

var launcher = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// daemonLog is the Daemon as the writer of its process's standard error.
type daemonLog Daemon

func (l *daemonLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Closed and made anew for each piece: any number of waiters wake, and none can miss one that came
	// between its look and its wait.
	close(l.grew)
	l.grew = make(chan struct{})
	return l.log.Write(b)
}

var _ io.Writer = (*daemonLog)(nil)

// Log returns what the daemon has written to its standard error so far.
func (d *Daemon) Log() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String()
}

// State tells whether the daemon runs or how it ended.
func (d *Daemon) State() string {
	select {
	case <-d.done:
		return d.cmd.ProcessState.String()
	default:
		return "running"
	}
}

// PID returns the daemon's process id.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Ask runs a meshd command against this daemon and returns what it printed on
// standard output. After two minutes the command is killed.
func (d *Daemon) Ask(args ...string) (string, error) {
	// In the same private mounts as the daemon: a command such as `cleanup` looks at files and pins
	// itself.
	line := slices.Concat(d.private(), []string{d.Binary}, args,
		[]string{"--config", d.Config, "--socket", d.Socket})
	cmd := d.Host.Command(line[0], line[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := runFor(longest, cmd)
	if err != nil {
		err = fmt.Errorf("meshd %s: %w: %s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.String(), err
}

// Exit waits for the daemon to end by itself and returns its exit code.
func (d *Daemon) Exit() (int, error) {
	select {
	case <-d.done:
		return d.cmd.ProcessState.ExitCode(), nil
	case <-time.After(Patience):
		return 0, fmt.Errorf("meshd on %s still runs:\n%s", d.Host.name, d.Log())
	}
}

// Stop sends SIGTERM, waits for the end and returns how long that took; the
// error is nil if it ended by itself with exit code 0.
func (d *Daemon) Stop() (time.Duration, error) {
	began := time.Now()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, err
	}
	select {
	case <-d.done:
		return time.Since(began), d.err
	case <-time.After(Patience / 3): // 10 s, as in meshd.service
		_ = d.cmd.Process.Signal(syscall.SIGQUIT) // the Go runtime writes where each goroutine hangs
		select {
		case <-d.done:
		case <-time.After(Patience / 6):
		}
		d.Kill()
		return time.Since(began), fmt.Errorf("meshd on %s did not stop: %s\n%s", d.Host.name, hanging(d.Log()),
			d.Log())
	}
}

// Kill ends the daemon at once and waits for that. It may have ended already.
func (d *Daemon) Kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
}

// StopAll stops daemons that may have ended already.
func StopAll(daemons ...*Daemon) error {
	var errs []error
	for _, d := range daemons {
		select {
		case <-d.done:
		default:
			_, err := d.Stop()
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
