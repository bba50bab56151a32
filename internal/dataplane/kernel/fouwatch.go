package kernel

import "time"

// strays is how many packets may come to the devices past mesh_in before that is no accident.
const strays = 5

// watchDecap looks whether packets that mesh_in marked come to the devices, and others do not. If not, no
// packet is sent there any more at once, and the owner is to return to tcx.
func (e *Engine) watchDecap(h *handle) (again bool, err error) {
	e.mu.Lock()
	device := int(e.settings.Decap)
	e.mu.Unlock()
	earlier, later, err := twice(func() (ends, error) {
		counted, err := h.countedEnds()
		counted.dropped = tunnelDrops()
		return counted, err
	})
	if err != nil {
		return false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.handle() != h || int(e.settings.Decap) != device {
		return false, nil
	}
	c, why := &e.passage, error(nil)
	if !c.began {
		c.strays = later.strays
	}
	if lost := c.judge(earlier, later); lost > 0 {
		why = noFOU("%d packets that were left to the kernel did not come to %s: "+
			"does a rule of this host drop them, or change their mark?", lost, tunnel4)
	} else if n := later.strays - c.strays; n >= strays {
		why = noFOU("%d datagrams of nodes passed meshd's program by: do they come in by another interface?", n)
	}
	if why == nil {
		return false, nil
	}
	e.forgoFOU(why)
	c.off = why
	return true, e.reconfigure(func(s *meshSettings) { s.Decap = 0 })
}

// handedEvery is how often it is looked whether datagrams reach sockets.
const handedEvery = 4 * time.Second

// handedFewest is how many datagrams have to be handed to sockets, and none of them come, before anything is
// said.
const handedFewest = 5

// A handing is what was handed to user space, and what user space has received, at one time.
type handing struct {
	at               time.Time
	handed, received uint64
}

// WatchHanded looks whether datagrams that programs hand to sockets get there, by how many packets sockets
// have received so far. They pass the host's rules as datagrams to the mesh's port. Rules may redirect them;
// and a host that lets nothing but answers in drops them as long as the rule is not in force that has
// questions leave from that port (filter.Guard). Then the owner is to return to tcx. It is to be called every
// second or so, from any goroutine.
func (e *Engine) WatchHanded(received func() uint64) (again bool) {
	e.mu.Lock()
	before, apart := e.handing, e.settings.UserPort != 0 && e.settings.Decap != 0
	e.mu.Unlock()
	now := handing{at: time.Now()}
	if apart && now.at.Sub(before.at) < handedEvery {
		return false
	}
	if apart {
		now.received = received()
		for reason, n := range e.Read().Handed {
			if incoming[reason] {
				now.handed += n
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.handing = now
	few := before.handed == 0 || now.handed < before.handed+handedFewest
	if !apart || few || now.received != before.received {
		return false
	}
	e.forgoFOU(noFOU("%d datagrams for meshd itself did not reach its sockets: "+
		"does a rule of this host drop or redirect them?", now.handed-before.handed))
	return true
}
