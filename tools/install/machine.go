package main

import (
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
	init       int    // process id of its systemd
	switches   string // forwarding, before meshd was installed
}

// boot starts a machine and waits until it runs.
func (t *trial) boot(name string) (*machine, error) {
	root, err := t.copyOf(name)
	if err != nil {
		return nil, err
	}
	m := &machine{name: name, root: root}
	m.nspawn = exec.Command("systemd-nspawn", "-q", "-D", root, "-M", "meshd-"+name, "--boot", "--register=no",
		"--keep-unit", "--private-network", "--capability=all", "--console=pipe")
	m.nspawn.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	console, err := os.Create(filepath.Join(t.work, name+".console"))
	if err != nil {
		return nil, err
	}
	defer console.Close()
	m.nspawn.Stdout, m.nspawn.Stderr = console, console
	if err := m.nspawn.Start(); err != nil {
		return nil, err
	}
	if err := eventually(30*time.Second, func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.nspawn.Process.Pid,
			m.nspawn.Process.Pid))
		if err != nil {
			return err
		}
		m.init, err = strconv.Atoi(strings.TrimSpace(string(children)))
		if err != nil {
			return fmt.Errorf("no init yet: %q", children)
		}
		state, err := m.run("systemctl", "is-system-running")
		if strings.TrimSpace(state) != "running" {
			return fmt.Errorf("systemd is %q: %w", state, errors.Join(err, errors.New("not running")))
		}
		return nil
	}); err != nil {
		return nil, errors.Join(err, m.stop())
	}
	// As udev has it on a host (50-udev-default.rules).
	_, err = m.run("sh", "-c",
		"mkdir -p /dev/net; [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200; chmod 666 /dev/net/tun")
	return m, err
}

// stop powers the machine off.
func (m *machine) stop() error {
	if m.init != 0 {
		_ = syscall.Kill(m.init, syscall.Signal(34+4)) // SIGRTMIN+4: power off (systemd(1))
	}
	ended := make(chan struct{})
	go func() {
		_ = m.nspawn.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		_ = m.nspawn.Process.Kill()
		<-ended
	}
	return nil
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
	doc, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	name := "/root/" + filepath.Base(path)
	if err := os.WriteFile(filepath.Join(m.root, name), doc, 0o644); err != nil {
		return err
	}
	_, err = m.run("apt-get", "install", "-y", "--allow-downgrades", name)
	return err
}

// forwarding returns the switches of everything that is there without meshd.
func (m *machine) forwarding() (string, error) {
	return m.run("sh", "-c",
		"cd /proc/sys/net && grep . ipv4/conf/*/forwarding ipv6/conf/*/forwarding ipv6/conf/*/accept_ra")
}

// asFound compares forwarding with what it was before meshd was installed.
func (m *machine) asFound() error {
	now, err := m.forwarding()
	if err == nil && now != m.switches {
		err = fmt.Errorf("forwarding on %s is\n%s\nand was\n%s", m.name, now, m.switches)
	}
	return errors.Join(err, m.apart())
}

// apart: one network beside the host does not reach the other.
func (m *machine) apart() error {
	return m.exits(1, "100% packet loss", "ip", "netns", "exec", "lan1", "ping", "-c", "1", "-W", "1",
		"192.168.2.2")
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
