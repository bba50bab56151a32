package nstest

import (
	"errors"
	"fmt"
)

// Reference is the mesh of the demo and of most tests: three hosts on one
// underlay, a /24 of pods on each, two pods on the third host.
//
//	control-plane  172.18.0.2  10.244.0.0/24  pod 10.244.0.2
//	worker         172.18.0.4  10.244.1.0/24  pod 10.244.1.2
//	worker2        172.18.0.3  10.244.2.0/24  pods 10.244.2.2 and 10.244.2.3
//
// Each host also has 2001:db8::N on the underlay and fd00:10:244:N::/64 for
// pods, which the mesh carries if its file says so.
type Reference struct {
	Lab                         *Lab
	ControlPlane, Worker        *Host
	Worker2                     *Host
	PodCP, PodW, PodW2a, PodW2b *Namespace
	mtu                         int
}

// NewReference builds the hosts and pods in an empty lab. mtu is that of the
// pods in bytes.
func NewReference(l *Lab, mtu int) (*Reference, error) {
	r, err := NewHosts(l)
	if err != nil {
		return nil, err
	}
	r.mtu = mtu
	var errs []error
	for n, h := range r.Hosts() {
		errs = append(errs, h.Pods(mtu, fmt.Sprintf("10.244.%d.1/24", n), fmt.Sprintf("fd00:10:244:%d::1/64", n)))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	pod := func(h *Host, name string, n, last int) *Namespace {
		p, err := h.Pod(name, mtu, []string{"10.244.0.0/16", "fd00:10:244::/48"},
			fmt.Sprintf("10.244.%d.%d/24", n, last), fmt.Sprintf("fd00:10:244:%d::%d/64", n, last))
		errs = append(errs, err)
		return p
	}
	r.PodCP = pod(r.ControlPlane, "pod", 0, 2)
	r.PodW = pod(r.Worker, "pod", 1, 2)
	r.PodW2a = pod(r.Worker2, "pod-a", 2, 2)
	r.PodW2b = pod(r.Worker2, "pod-b", 2, 3)
	return r, errors.Join(errs...)
}

// NewHosts builds the hosts alone, as they are before a container runtime comes.
func NewHosts(l *Lab) (*Reference, error) {
	r := &Reference{Lab: l}
	var errs []error
	host := func(name string, n int) *Host {
		h, err := l.Host(name, fmt.Sprintf("172.18.0.%d/16", n), fmt.Sprintf("2001:db8::%d/64", n))
		errs = append(errs, err)
		return h
	}
	r.ControlPlane = host("control-plane", 2)
	r.Worker = host("worker", 4)
	r.Worker2 = host("worker2", 3)
	return r, errors.Join(errs...)
}

// Hosts returns the three hosts, by the number of their subnets.
func (r *Reference) Hosts() []*Host { return []*Host{r.ControlPlane, r.Worker, r.Worker2} }
