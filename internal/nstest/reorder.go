package nstest

import (
	"errors"
	"fmt"
	"time"
)

// Reorder has frames that leave a host, or come to it, pass each other: each third one waits for 5 ms, in
// which later ones overtake it. The cable runs through this process until the function that is returned is
// called.
//
//	host eth0 --- port =copied by us= rA --- rB in br0
func (h *Host) Reorder() (end func() error, err error) {
	sw, port := h.Lab.sw, h.port
	for _, host := range h.Lab.spaces { // nobody fills in a checksum of what is copied; pods may have no eth0
		_, _ = host.Run("ethtool", "-K", "eth0", "tx", "off")
	}
	if err := sw.IP("link add rA type veth peer name rB", "link set rB master br0",
		"link set rA up promisc on", "link set rB up"); err != nil {
		return nil, err
	}
	var ends [2]*Capture
	for i, dev := range []string{port, "rA"} {
		if ends[i], err = sw.Capture(dev); err != nil {
			return nil, err
		}
		if err := ends[i].incoming(); err != nil {
			return nil, fmt.Errorf("reorder: %w", err)
		}
	}
	// Only now the bridge lets go of the cable.
	if err := sw.IP("link set " + port + " nomaster promisc on"); err != nil {
		return nil, err
	}
	done := make(chan struct{}, len(ends))
	stop := make(chan struct{})
	for i := range ends {
		go func() {
			defer func() { done <- struct{}{} }()
			ends[i].shuffleTo(ends[1-i], stop)
		}()
	}
	return func() error {
		close(stop)
		// The bridge has the cable again at once: what takes time comes while packets flow.
		err := sw.IP("link set "+port+" promisc off master br0", "link del rA")
		for range ends {
			<-done
		}
		return errors.Join(err, ends[0].Close(), ends[1].Close())
	}, nil
}

// shuffleTo sends what comes in on through another interface until stop is closed.
func (c *Capture) shuffleTo(other *Capture, stop <-chan struct{}) {
	const late, every = 5 * time.Millisecond, 3
	for n := 0; ; n++ {
		b, err := c.Next(50*time.Millisecond, func([]byte) bool { return true })
		select {
		case <-stop:
			return
		default:
		}
		switch {
		case errors.Is(err, ErrNoFrame):
		case err != nil:
			return
		case n%every == 0:
			frame := append([]byte(nil), b...)
			time.AfterFunc(late, func() { _ = other.Send(frame) }) // it may be closed
		default:
			_ = other.Send(b) // full, or down: lost, as on a wire
		}
	}
}
