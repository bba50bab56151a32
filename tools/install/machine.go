package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A machine is a container in which a real systemd has booted.
type machine struct {
	name, root string
	nspawn     *exec.Cmd
	ended      chan struct{} // closed when nspawn has ended
	init       int           // process id of its systemd
	switches   string        // forwarding, before meshd was installed
}

// tunDevice is what udev makes on a host (50-udev-default.rules).
const tunDevice = "d /dev/net 0755\nc /dev/net/tun 0666 root root - 10:200\n"

// bpfMount does what systemd itself does on a host, but not in a container (mount_table in its
// src/shared/mount-setup.c). It refuses a mount unit there.
const bpfMount = `[Unit]
DefaultDependencies=no
Before=local-fs.target
[Service]
Type=oneshot
ExecStart=mount -t bpf -o nosuid,nodev,noexec,mode=0700 bpf /sys/fs/bpf
`

// boot starts a new machine and waits until it runs.
func (t *trial) boot(name string) (*machine, error) {
	root, err := t.copyOf(name)
	if err != nil {
		return nil, err
	}
	m := &machine{name: name, root: root}
	const units = "/etc/systemd/system/"
	if err := errors.Join(m.write("/etc/tmpfiles.d/tun.conf", tunDevice),
		m.write(units+"bpf.service", bpfMount), os.MkdirAll(root+units+"local-fs.target.wants", 0o755),
		os.Symlink("../bpf.service", root+units+"local-fs.target.wants/bpf.service")); err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.booted = append(t.booted, m)
	t.mu.Unlock()
	return m, m.start("running")
}

// start boots the machine as its disk is, and waits until its systemd is in a state, or further. The filter
// of nspawn would refuse bpf(2), and with it the kernel engine.
func (m *machine) start(state string) error {
	groups, err := ownGroups(m.name)
	if err != nil {
		return err
	}
	const enter = `for group in $MACHINE_GROUPS; do echo $$ >$group/cgroup.procs; done; exec "$@"`
	m.nspawn = exec.Command("sh", "-ec", enter, "sh", "systemd-nspawn", "-q", "-D", m.root,
		"-M", "meshd-"+m.name, "--boot", "--register=no", "--keep-unit", "--private-network",
		"--capability=all", "--system-call-filter=bpf", "--console=pipe",
		"--tmpfs=/sys/fs/bpf") // nspawn makes the mount point of bpfMount
	m.nspawn.Env = append(os.Environ(), "MACHINE_GROUPS="+strings.Join(groups, " "))
	m.nspawn.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	console, err := os.Create(m.root + ".console")
	if err != nil {
		return err
	}
	defer console.Close()
	m.nspawn.Stdout, m.nspawn.Stderr = console, console
	if err := m.nspawn.Start(); err != nil {
		return err
	}
	m.ended = make(chan struct{})
	go func() {
		_ = m.nspawn.Wait() // its exit code is that of the machine's systemd
		removeGroups(groups)
		close(m.ended)
	}()
	return eventually(time.Minute, func() error { return m.is(state) })
}

// is returns an error unless the machine's systemd is in a state, or runs.
func (m *machine) is(want string) error {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", m.nspawn.Process.Pid))
	if err != nil {
		return err
	}
	if m.init, err = strconv.Atoi(strings.TrimSpace(string(children))); err != nil {
		return fmt.Errorf("no init yet: %q", children)
	}
	state, err := m.run("systemctl", "is-system-running")
	if state = strings.TrimSpace(state); state != want && state != "running" {
		return fmt.Errorf("systemd is %q, not %s: %w", state, want, err)
	}
	return nil
}

// stop powers the machine off.
func (m *machine) stop() error {
	if m.ended == nil {
		return nil // it never started
	}
	select {
	case <-m.ended: // its process id may be another process's by now
		return nil
	default:
	}
	if m.init != 0 {
		_ = syscall.Kill(m.init, syscall.Signal(34+4)) // SIGRTMIN+4: power off (systemd(1))
	}
	select {
	case <-m.ended:
	case <-time.After(20 * time.Second):
		_ = m.nspawn.Process.Kill()
		<-m.ended
	}
	return nil
}

// cut ends all processes of the machine at once, as a power cut does. The kernel kills a PID namespace with
// its init (pid_namespaces(7)).
func (m *machine) cut() error {
	if err := syscall.Kill(m.init, syscall.SIGKILL); err != nil {
		return err
	}
	select {
	case <-m.ended:
		m.init = 0
		return nil
	case <-time.After(20 * time.Second):
		return fmt.Errorf("machine %s is still there after its init was killed", m.name)
	}
}

// run runs a command in the machine and returns what it printed.
func (m *machine) run(args ...string) (string, error) {
	cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(m.init), "-a", "env", "-i",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %s: %w\n%s", m.name, strings.Join(args, " "), err, tail(string(out)))
	}
	return string(out), err
}

// all runs lines of a shell in the machine, one after the other.
func (m *machine) all(lines ...string) error {
	_, err := m.run("sh", "-ec", strings.Join(lines, "\n"))
	return err
}

// exits runs a command that must end with a code, and say words.
func (m *machine) exits(code int, words string, args ...string) error {
	out, err := m.run(args...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		return err
	}
	if got != code || !strings.Contains(out, words) {
		return fmt.Errorf("%s: %s: exit code %d, not %d, and %q is to be in\n%s", m.name, strings.Join(args, " "),
			got, code, words, out)
	}
	return nil
}

// write stores a file in the machine, in the place of the one that is there.
func (m *machine) write(path, text string) error {
	path = filepath.Join(m.root, path)
	return errors.Join(os.WriteFile(path+".new", []byte(text), 0o644), os.Rename(path+".new", path))
}

// deb copies a package into the machine and installs it as people do.
func (m *machine) deb(path string) error {
	name, err := m.take(path)
	if err == nil {
		_, err = m.run("apt-get", "install", "-y", "--allow-downgrades", name)
	}
	return err
}

// take copies a package into the machine and returns its name there.
func (m *machine) take(path string) (name string, err error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	name = "/root/" + filepath.Base(path)
	return name, os.WriteFile(filepath.Join(m.root, name), doc, 0o644)
}

// forwarding returns the switches of everything that is there without meshd.
func (m *machine) forwarding() (string, error) {
	return m.run("sh", "-c",
		"cd /proc/sys/net && grep . ipv4/conf/*/forwarding ipv6/conf/*/forwarding ipv6/conf/*/accept_ra")
}

// switchesAsFound compares forwarding with what it was before meshd was installed.
func (m *machine) switchesAsFound() error {
	now, err := m.forwarding()
	if err == nil && now != m.switches {
		err = fmt.Errorf("forwarding on %s is\n%s\nand was\n%s", m.name, now, m.switches)
	}
	return err
}

// asFound: forwarding is as it was, and nothing is forwarded.
func (m *machine) asFound() error { return errors.Join(m.switchesAsFound(), m.apart()) }

// apart: one network beside the host does not reach the other.
func (m *machine) apart() error {
	return m.exits(1, "100% packet loss", "ip", "netns", "exec", "lan1", "ping", "-c", "1", "-W", "1",
		"192.168.2.2")
}

// A status is what `meshd status --json` says, as far as steps ask for it.
type status struct {
	BootID    string `json:"boot_id"` // of this start of meshd
	Dataplane struct {
		Engine, Receive string
	}
	Health struct {
		Level    string
		Problems []struct{ Kind string }
	}
}

// status asks the machine's meshd.
func (m *machine) status() (s status, err error) {
	text, err := m.run("meshd", "status", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(text), &s)
	}
	return s, err
}

// listen opens a UDP socket in the machine's network.
func (m *machine) listen(address string) (conn *net.UDPConn, err error) {
	type result struct {
		conn *net.UDPConn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.init))
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		var conn *net.UDPConn
		if err == nil {
			conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(mustPort(address)))
		}
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// join lays a wire between two machines.
func join(a, b *machine) error {
	for _, args := range [][]string{
		{"link", "add", "meshinst0", "type", "veth", "peer", "name", "meshinst1"},
		{"link", "set", "meshinst0", "netns", strconv.Itoa(a.init), "name", "eth0"},
		{"link", "set", "meshinst1", "netns", strconv.Itoa(b.init), "name", "eth0"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// eventually asks until the answer is yes. Most of what it asks for has no event.
func eventually(within time.Duration, question func() error) error {
	for deadline := time.Now().Add(within); ; {
		err := question()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not in time: %w", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
