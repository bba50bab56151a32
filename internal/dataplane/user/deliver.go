package user

import (
	"errors"

	"example.org/meshd/internal/dataplane/gro"
)

// Deliver implements dataplane.Deliverer.
func (u *Engine) Deliver(b []byte) error {
	workers := *u.workers.Load()
	if len(workers) == 0 {
		return errors.New("deliver a packet: no packet loop runs")
	}
	return workers[0].Tun.Writer()(gro.Plain(nil, b))
}
