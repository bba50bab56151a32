// Package device makes the TUN, and clears away what stands in the way of it: the TUN that an earlier
// run had under another name, and an idle one of another program. Package link sets the addresses and
// routes of the TUN, and package tun moves packets through it.
package device

import (
	"errors"
	"log/slog"
	"os"
	"slices"
	"time"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/rate"
	"example.org/meshd/internal/wireguard"
)

// A Device is the TUN of this daemon. Its methods belong to one goroutine.
type Device struct {
	log   *slog.Logger
	held  []string // TUNs of which an earlier meshd left queues
	index int      // of the one that is ours; 0: none yet; negative: it was deleted while it was made
	last  int      // of the last one that Make has left, also if what came after it failed; 0: none
	taken int      // how often another program has taken that one away

	replaced rate.Lines // about TUNs of another program
}

// New returns a Device. It does not touch the kernel.
func New(log *slog.Logger) *Device { return &Device{log: log} }

// Inherit notes of which TUNs an earlier meshd left queues, with the service manager or in this process.
// It comes before anything closes the files.
func (d *Device) Inherit(left []*os.File) { d.held = tun.Held(left) }

// Adopted notes that the engine uses queues of the TUN called name that an earlier meshd left.
func (d *Device) Adopted(name string) { d.index = link.Index(name); d.last = max(0, d.index) }

// Taken returns how often another program has deleted or renamed the TUN so far, as Make has found it.
func (d *Device) Taken() int { return d.taken }

// ClearWay takes down the TUNs that an earlier run had under other names than this one, and the encrypted
// interface unless the mesh is sealed or about to be: packets must go by the TUN then. It is for the
// start, when this daemon has the control socket and the port: no other meshd can need them. fits tells
// whether the host's routes leave room for the mesh; routes over these TUNs are in the way only until
// then. What another program has put there is an error before anything is changed.
func (d *Device) ClearWay(name string, sealed bool, fits func() error) error {
	err := fits()
	if err != nil && !errors.Is(err, link.ErrEarlier) {
		return err
	}
	removed, downErr := link.TakeDown([]string{name, wireguard.Interface}, d.held)
	for _, old := range removed {
		d.log.Info("took down the interface that the last run had: network.interface has another value now",
			"old", old, "new", name, "event", "interface_renamed")
	}
	if !sealed {
		gone, err := link.RemoveEncrypted(wireguard.Interface)
		if downErr = errors.Join(downErr, err); gone {
			d.log.Info("took down the encrypted interface that the last run had: the file does not ask for encryption",
				"interface", wireguard.Interface, "event", "interface_removed")
		}
	}
	if err == nil {
		return downErr
	}
	return errors.Join(downErr, fits())
}

// Make makes the TUN called name, or takes over the one that an earlier run left. Where it is ours
// already it is left alone: making it would attach a queue for a moment, which would take packets with
// it. changes has the TUN if another program deleted or renamed it; undo deletes it if this call was the
// first to make it, and may be nil. After an error nothing of it stays.
func (d *Device) Make(name string) (changes []mesh.Change, undo func() error, err error) {
	had := d.index
	if had > 0 && had == link.Index(name) {
		return nil, nil, nil
	}
	if d.last > 0 && d.last != link.Index(name) {
		d.last, d.taken = 0, d.taken+1
	}
	vacated, err := link.Vacate(name)
	// Queues that an earlier meshd left and that cannot be used are closed, but the service manager may have
	// its copies open until it gets new ones.
	if errors.Is(err, link.ErrInUse) && slices.Contains(d.held, name) {
		err = nil
	}
	if err != nil {
		return nil, nil, err
	}
	if vacated {
		if n := d.replaced.Add(time.Now()); n > 0 {
			d.log.Info("replaced a TUN that another program made and left idle", "interface", name, "count", n,
				"event", "interface_replaced")
		}
	}
	if had > 0 {
		if was, err := link.TakeBack(had, name); err != nil || was != "" {
			d.last = had
			return []mesh.Change{{Op: mesh.Repaired, Kind: mesh.ChangedInterface, Subject: name, Field: "name",
				Old: was, New: name}}, nil, err
		}
	}
	fresh := !link.Exists(name)
	if err := tun.Create(name, link.Claim); err != nil {
		return nil, nil, err
	}
	d.index = link.Index(name)
	d.last = max(0, d.index)
	if had != 0 {
		changes = []mesh.Change{{Op: mesh.Repaired, Kind: mesh.ChangedInterface, Subject: name, Field: "deleted"}}
	}
	return changes, func() error {
		d.index = had
		if had != 0 || !fresh {
			return nil
		}
		d.last = 0
		_, err := link.CleanUp(name)
		return err
	}, nil
}
