package nstest

import (
	"errors"
	"fmt"
	"time"
)

// Delay makes the cable of a host as long as light takes a time for, each way. It
// lasts until the lab is closed.
//
//	host eth0 --- port =copied by us= dA --- dB in br0
func (h *Host) Delay(way time.Duration) error {
	l, port := h.Lab, h.port
	if err := l.sw.IP("link add dA type veth peer name dB", "link set "+port+" nomaster",
		"link set dB master br0",
		"link set dA up promisc on", "link set dB up", "link set "+port+" promisc on"); err != nil {
		return err
	}
	// What we copy has to be complete: nobody fills in a checksum later.
	for _, host := range l.spaces {
		if _, err := host.Run("ethtool", "-K", "eth0", "tx", "off"); err != nil && host == h.Namespace {
			return err
		}
	}
	left, err := l.sw.Capture(port)
	if err != nil {
		return err
	}
	right, err := l.sw.Capture("dA")
	if err != nil {
		return errors.Join(err, left.Close())
	}
	for _, c := range [][2]*Capture{{left, right}, {right, left}} {
		if err := c[0].incoming(); err != nil {
			return fmt.Errorf("delay: %w", err)
		}
		go c[0].copyTo(c[1], way)
	}
	l.captures = append(l.captures, left, right)
	return nil
}

// copyTo sends what comes in on through another interface, some time later, until
// the capture is closed.
func (c *Capture) copyTo(other *Capture, later time.Duration) {
	type frame struct {
		b  []byte
		at time.Time
	}
	queue := make(chan frame, 10000)
	defer close(queue)
	go func() {
		for f := range queue {
			time.Sleep(time.Until(f.at)) // that is what it is for
			_ = other.Send(f.b)
		}
	}()
	for {
		b, err := c.Next(time.Hour, func([]byte) bool { return true })
		if err != nil {
			return
		}
		queue <- frame{append([]byte(nil), b...), time.Now().Add(later)}
	}
}
