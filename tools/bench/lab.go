package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf/link"

	"example.org/meshd/internal/nstest"
)

// lab is two hosts, a and b, joined by a wire, each with one pod:
//
//	pod a --- host a ===wire=== host b --- pod b
//	10.244.1.2  192.0.2.1   192.0.2.2   10.244.2.2
type lab struct {
	dir       string
	hosts     [2]*nstest.Namespace
	pods      [2]*nstest.Namespace
	processes []*exec.Cmd
	links     []link.Link
	relay     *nstest.Relay // the wire, if it has no Ethernet header
}

const (
	podA = "10.244.1.2"
	podB = "10.244.2.2"
)

// newLab makes both hosts and their pods. mtu is the pods', in bytes; the wire has that of a veth,
// 1500; bare makes it one without Ethernet headers. If it fails, nothing is left.
func newLab(dir string, mtu int, bare bool) (l *lab, err error) {
	l = &lab{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	for i := range 2 {
		for _, n := range []struct {
			to   **nstest.Namespace
			name string
		}{{&l.hosts[i], "host"}, {&l.pods[i], "pod"}} {
			if *n.to, err = nstest.New(fmt.Sprintf("meshbench%d%s%c", os.Getpid(), n.name, 'a'+i)); err != nil {
				return l, err
			}
		}
	}
	if bare {
		l.relay, err = nstest.NewRelay(l.hosts[0], l.hosts[1], "eth0")
	} else {
		err = l.hosts[0].IP("link add eth0 type veth peer name eth0 netns " + l.hosts[1].Name)
	}
	if err != nil {
		return l, err
	}
	// Only now both ends of the wire exist: the veth was made in host a with its peer in host b.
	for i, h := range l.hosts {
		if err := l.equip(h, l.pods[i], i+1, mtu); err != nil {
			return l, err
		}
	}
	return l, nil
}

// equip gives a host its uplink and its pod.
func (l *lab) equip(h, pod *nstest.Namespace, number, mtu int) error {
	if err := h.IP(
		fmt.Sprintf("addr add 192.0.2.%d/24 dev eth0", number), "link set eth0 up",
		"link add pod type veth peer name eth0 netns "+pod.Name,
		fmt.Sprintf("addr add 10.244.%d.1/24 dev pod", number), "link set pod up"); err != nil {
		return err
	}
	if err := pod.IP(fmt.Sprintf("addr add 10.244.%d.2/24 dev eth0", number),
		fmt.Sprintf("link set eth0 mtu %d up", mtu),
		fmt.Sprintf("route add default via 10.244.%d.1", number)); err != nil {
		return err
	}
	if l.relay != nil { // packets of its MTU cross it anyway
		return h.Sysctl("ipv4.ip_forward", "1")
	}
	// What makes a wire of it: packets of its MTU cross it, merged again behind.
	wire := strings.Fields(
		"-K eth0 tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off " +
			"tx-udp-segmentation off tso off gro on")
	if _, err := h.Run("ethtool", wire...); err != nil {
		return err
	}
	return h.Sysctl("ipv4.ip_forward", "1")
}

// spawn starts a program on a host that runs until the lab is closed.
func (l *lab) spawn(host int, name string, args ...string) error {
	cmd := l.hosts[host].Command(name, args...)
	// To a file and not to a pipe: a pipe that this process reads late would stop what is measured.
	log, err := os.Create(filepath.Join(l.dir, fmt.Sprintf("%s.%d.log", filepath.Base(name), host)))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	l.processes = append(l.processes, cmd)
	return nil
}

// reachable waits until the pods see each other.
func (l *lab) reachable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		out, err := l.pods[0].Run("ping", "-c", "1", "-W", "0.2", podB)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			logs, _ := exec.Command("sh", "-c", "tail -n 20 "+l.dir+"/*.log").CombinedOutput()
			return fmt.Errorf("the pods do not reach each other: %s%s", out, logs)
		}
	}
}

// close ends what was started and removes the hosts.
func (l *lab) close() error {
	var errs []error
	for _, at := range l.links {
		errs = append(errs, at.Close())
	}
	for _, p := range l.processes {
		// All get their signal before one is waited for: closing takes as long as the slowest does.
		_ = p.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	for _, p := range l.processes {
		ended := make(chan struct{})
		go func() { _ = p.Wait(); close(ended) }() // by our signal: its exit code says nothing
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			errs = append(errs, p.Process.Kill())
			<-ended
		}
	}
	if l.relay != nil {
		errs = append(errs, l.relay.Close())
	}
	for _, n := range append(l.hosts[:], l.pods[:]...) {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}
