package user

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/udp"
)

// Where the kernel itself has the mesh's port (dataplane.Wanted.Apart), sockets have another one:
//
//	first    of each of our addresses: all have one port. Programs hand datagrams to it
//	further  for the other queues: a port each, from which they send. They receive nothing
//
// Programs can hand datagrams to a group of sockets that share a port from Linux 6.6 on only
// (bpf_sk_assign), so the first one gets all. Whatever is sent to such a port itself is dropped by a filter
// of the socket: the rules that guard the mesh's port do not know of this one.

// apartPorts is how many ports behind the mesh's own are tried before any other. Programs that ask for no
// port in particular do not get these (net.ipv4.ip_local_port_range): the next meshd finds its port free.
const apartPorts = 32

// isFurther tells whether the name of a descriptor is that of a further socket; see endpoints.all.
func isFurther(name string) bool {
	return strings.HasPrefix(name, "udp-") && name != "udp-0" && !strings.HasPrefix(name, "udp-0-")
}

// bindApart has the first sockets of all addresses ready: those of usable if they fit, and have one port.
func (e *endpoints) bindApart(usable *endpoints) (err error) {
	var port uint16 // that all have
	for j, bind := range e.binds {
		fit := e.fit(usable, bind)
		if fit == nil || len(fit.receive) == 0 {
			continue
		}
		if first := fit.receive[0]; port == 0 || first.Local().Port() == port {
			port = first.Local().Port()
			e.groups[j].receive = slices.Clone(fit.receive[:min(len(fit.receive), e.count)])
		}
	}
	if port == 0 {
		port = e.apartPort
	}
	if port != 0 {
		if err = e.openFirst(port); err == nil || port == e.apartPort || !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
	}
	for j := range e.groups { // somewhere the port is taken: all get another one
		e.groups[j].receive = nil // those of usable stay open, and are its owner's to close
	}
	for next := range uint16(apartPorts + 1) {
		port = e.binds[0].Port() + 2 + next // the next one is for probes of an encrypted mesh
		if next == apartPorts {
			port = 0
		}
		if err = e.openFirst(port); err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
	}
	return err
}

// openFirst opens the first socket of each address that has none, at a port; 0: any that is free. After an
// error none of them is open.
func (e *endpoints) openFirst(port uint16) error {
	var opened []int
	for j, bind := range e.binds {
		if len(e.groups[j].receive) > 0 {
			continue
		}
		c, err := udp.OpenApart(bind, port, e.offload)
		if err != nil {
			for _, o := range opened {
				err = errors.Join(err, e.groups[o].receive[0].Close())
				e.groups[o].receive = nil
			}
			return fmt.Errorf("open a socket beside the kernel's port: %w", err)
		}
		port, opened = c.Local().Port(), append(opened, j)
		e.groups[j].receive = []*udp.Conn{c}
	}
	return nil
}

// openFurther opens n further sockets of the address at an index.
func (e *endpoints) openFurther(j, n int) error {
	for range n {
		c, err := udp.OpenApart(e.binds[j], 0, e.offload)
		if err != nil {
			return err
		}
		e.groups[j].receive = append(e.groups[j].receive, c)
	}
	return nil
}

// Port returns the port of the first sockets if the kernel has the mesh's port (dataplane.Wanted.Apart), as
// prepared; else 0. It is the owner's.
func (u *Engine) Port() uint16 {
	e := u.next
	if e == nil {
		e = u.open.Load()
	}
	if e == nil || !e.apart || len(e.groups) == 0 {
		return 0
	}
	return e.groups[0].receive[0].Local().Port()
}

// sendsFrom returns from where echoes without a checksum leave: from any port of the address if the kernel
// has its port.
func (f *forwarding) sendsFrom(own netip.AddrPort) netip.AddrPort {
	if f.apart {
		return netip.AddrPortFrom(own.Addr(), 0)
	}
	return own
}
