package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"example.org/meshd/internal/nstest"
)

// podB is the address of the pod on host b.
const podB = "10.244.2.2"

// A lab is two hosts, a and b, joined by a wire, each with one pod:
//
//	pod a --- host a ===wire=== host b --- pod b
//	10.244.1.2  192.0.2.1   192.0.2.2   10.244.2.2
type lab struct {
	dir         string
	hosts, pods [2]*nstest.Namespace
	processes   []*exec.Cmd
}

// newLab makes both hosts and their pods. mtu is the pods', in bytes; the wire has that of a veth, 1500.
// Bridged pods are on a bridge, as CNI plugins have it. Whatever comes of it, close has to be called.
func newLab(mtu int, bridged bool) (l *lab, err error) {
	l = &lab{}
	if l.dir, err = os.MkdirTemp("", "measure"); err != nil {
		return l, err
	}
	for i := range 2 {
		for to, name := range map[**nstest.Namespace]string{&l.hosts[i]: "host", &l.pods[i]: "pod"} {
			if *to, err = nstest.New(fmt.Sprintf("%s-%c", name, 'a'+i)); err != nil {
				return l, err
			}
		}
	}
	if err := l.hosts[0].IP("link add eth0 type veth peer name eth0 netns " + l.hosts[1].Name); err != nil {
		return l, err
	}
	for i, h := range l.hosts {
		if err := l.equip(h, l.pods[i], i+1, mtu, bridged); err != nil {
			return l, err
		}
	}
	return l, nil
}

// equip gives a host its uplink and its pod.
func (l *lab) equip(h, pod *nstest.Namespace, number, mtu int, bridged bool) error {
	lines := []string{
		fmt.Sprintf("addr add 192.0.2.%d/24 dev eth0", number), "link set eth0 up",
		"link add pod type veth peer name eth0 netns " + pod.Name, fmt.Sprintf("link set pod mtu %d up", mtu),
	}
	gateway := "pod"
	if bridged {
		gateway = "cni0"
		lines = append(lines, "link add cni0 type bridge", fmt.Sprintf("link set cni0 mtu %d up", mtu),
			"link set pod master cni0")
	}
	lines = append(lines, fmt.Sprintf("addr add 10.244.%d.1/24 dev %s", number, gateway))
	if err := h.IP(lines...); err != nil {
		return err
	}
	if err := pod.IP(fmt.Sprintf("addr add 10.244.%d.2/24 dev eth0", number),
		fmt.Sprintf("link set eth0 mtu %d up", mtu),
		fmt.Sprintf("route add default via 10.244.%d.1", number)); err != nil {
		return err
	}
	// What makes a wire of it: packets of its MTU cross it, merged again behind.
	wire := strings.Fields("-K eth0 tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off " +
		"tx-udp-segmentation off tso off gro on")
	if _, err := h.Run("ethtool", wire...); err != nil {
		return err
	}
	return h.Sysctl("ipv4.ip_forward", "1")
}

// spawn starts a program that runs until the lab is closed. What it prints is in a file of the lab.
func (l *lab) spawn(cmd *exec.Cmd) error {
	log, err := os.Create(filepath.Join(l.dir, fmt.Sprintf("%d.log", len(l.processes))))
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

// logs returns the end of what programs have printed.
func (l *lab) logs() string {
	out, _ := exec.Command("sh", "-c", "tail -n 20 "+l.dir+"/*.log").CombinedOutput()
	return string(out)
}

// close ends what was started, and removes the hosts.
func (l *lab) close() error {
	var errs []error
	for _, p := range l.processes {
		_ = p.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	for _, p := range l.processes {
		_ = p.Wait() // by our signal: its exit code says nothing
	}
	for _, n := range append(l.hosts[:], l.pods[:]...) {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(append(errs, os.RemoveAll("/sys/fs/bpf/meshd"), os.RemoveAll(l.dir))...)
}
