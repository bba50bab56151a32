package speed

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// A place is where a listener is: an address, and the number of the interface, since a socket is bound to
// that and not to the name. The zero value: nowhere.
type place struct {
	own   netip.Addr
	index int
}

// place returns where askers of a family are to find this node.
func (s *scene) place(family int) (at place) {
	if s == nil || !s.opened || !s.own[family].IsValid() {
		return at
	}
	if at = (place{s.own[family], indexOf(s.device)}); at.index == 0 { // whoever brings the interface says so
		return place{}
	}
	return at
}

// listen takes connections of askers of one family while the file allows them.
func (k *Keeper) listen(ctx context.Context, family int) error {
	var l *net.TCPListener
	var at place
	for told := false; ctx.Err() == nil; {
		s := k.now()
		wanted := s.place(family)
		if l != nil && wanted != at {
			l.Close()
			l = nil
		}
		if l == nil && wanted != (place{}) {
			var err error
			l, err = listen(ctx, wanted.own, s.device)
			at = wanted
			if err == nil {
				told = false
			} else if errors.Is(err, unix.EADDRINUSE) && !told {
				told = true
				k.o.Log.Warn("cannot answer `meshd speed`: another program has the port", "port", Port,
					"error", err, "event", "speed_failed")
			}
		}
		if l != nil {
			k.accept(ctx, l, s)
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookEvery):
		}
	}
	if l != nil {
		l.Close()
	}
	return nil
}

// accept takes those who connect until the next look. A stranger gets nothing, not even a word.
func (k *Keeper) accept(ctx context.Context, l *net.TCPListener, s *scene) {
	_ = l.SetDeadline(time.Now().Add(lookEvery))
	defer context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Now()) })()
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return
		}
		peer, known := s.peers()[conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()]
		if !known {
			conn.Close()
			continue
		}
		if !k.slot.TryLock() {
			_ = conn.SetDeadline(time.Now().Add(answerTime))
			_ = writeMessage(conn, hello{Version: version, Busy: true}) // fits the send buffer: it never waits
			conn.Close()
			continue
		}
		k.work <- visit{conn: conn, peer: peer, device: s.device, size: s.size} // has room
	}
}

// serve answers one asker after the other.
func (k *Keeper) serve(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case v := <-k.work:
			err := k.answer(ctx, v)
			k.o.Measured(v.peer, time.Now())
			k.slot.Unlock() // before the asker sees the end
			v.conn.Close()
			if err != nil { // most often the asker has ended it
				k.o.Log.Info("a peer's measurement of this node has ended early", "peer", v.peer, "error", err,
					"event", "measured")
				continue
			}
			k.o.Log.Info("a peer has measured the speed to this node", "peer", v.peer, "event", "measured")
		}
	}
}

// answer takes part in a measurement, until the asker goes at the latest.
func (k *Keeper) answer(ctx context.Context, v visit) error {
	defer context.AfterFunc(ctx, func() { v.conn.Close() })()
	own := v.conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	udp, port, err := datagramSocket(ctx, own, v.device)
	if err != nil {
		return err
	}
	defer udp.Close()
	h := hello{Version: version, Token: make([]byte, tokenSize), Port: port}
	_, _ = rand.Read(h.Token) // never fails (crypto/rand)
	var r request
	err = v.conn.SetDeadline(time.Now().Add(answerTime))
	if err = errors.Join(err, writeMessage(v.conn, h), readMessage(v.conn, &r)); err != nil {
		return err
	}
	until := time.Now().Add(r.longest())
	k.o.Measured(v.peer, until)
	l := &line{tcp: v.conn, udp: udp, token: h.Token, size: v.size, request: r,
		to: &net.UDPAddr{IP: v.conn.RemoteAddr().(*net.TCPAddr).IP, Port: int(r.Port)}}
	err = v.conn.SetDeadline(until)
	if err == nil {
		_, err = l.receive(ctx)
	}
	if err == nil {
		_, err = l.send(ctx)
	}
	return err
}
