package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// tcp sends a stream by one connection after the other.
func (f *flow) tcp() (func(context.Context) error, []io.Closer, error) {
	var listener net.Listener
	err := f.to.Do(func() (err error) {
		listener, err = net.Listen("tcp", f.target().String())
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	go f.accept(listener)
	send := func(ctx context.Context) error {
		for number := uint64(0); ctx.Err() == nil; number++ {
			if err := f.connection(ctx, number); err != nil {
				f.breaks(f.id, err)
				pause(ctx, time.Second)
			}
		}
		return nil
	}
	return send, []io.Closer{listener}, nil
}

// connection sends the content of one connection, and waits until all of it was taken.
func (f *flow) connection(ctx context.Context, number uint64) error {
	var conn net.Conn
	err := f.from.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", f.target().String(), stalled)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	buf := make([]byte, 8*f.chunk)
	position := number * connectionRoom
	life, end := context.WithTimeout(ctx, tcpLife)
	defer end()
	for i := 0; ; i++ {
		b := buf[:f.chunk]
		if i%8 == 7 { // as much as makes superpackets
			b = buf
		}
		fill(b, f.id, position)
		position += uint64(len(b))
		f.sends(f.id, len(b))
		if err := conn.SetDeadline(time.Now().Add(stalled)); err != nil {
			return err
		}
		if _, err := conn.Write(b); err != nil {
			return err
		}
		if !pause(life, tcpPause) {
			break
		}
	}
	err = errors.Join(conn.(*net.TCPConn).CloseWrite(), conn.SetDeadline(time.Now().Add(stalled)))
	if err != nil {
		return err
	}
	if _, err := conn.Read(buf[:1]); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("the other end did not close the connection"), err)
	}
	return nil
}

// accept takes connections until the listener closes.
func (f *flow) accept(listener net.Listener) {
	var open sync.WaitGroup
	defer open.Wait()
	for {
		conn, err := listener.Accept()
		if ended(err) {
			return
		}
		if err != nil {
			f.breaks(f.id, err)
			continue
		}
		open.Go(func() {
			defer conn.Close()
			if err := f.receive(conn); err != nil {
				f.breaks(f.id, err)
			}
		})
	}
}

// errAltered is why a receiver ends a connection that had other bytes.
var errAltered = errors.New("other bytes arrived than were sent")

// receive checks a connection to its end. After other bytes it looks at what follows, up to a limit, for how
// far they go, and ends it.
func (f *flow) receive(conn net.Conn) error {
	buf := make([]byte, 64<<10)
	c := &checker{ledger: f.ledger, flow: f.id}
	for first := true; ; first = false {
		if err := conn.SetDeadline(time.Now().Add(stalled)); err != nil {
			return err
		}
		n, err := conn.Read(buf)
		if first {
			// Words are whole at the beginning: the first tells which connection it is.
			for err == nil && n < 8 {
				var more int
				more, err = conn.Read(buf[n:])
				n += more
			}
			if n >= 8 {
				number, ok := connectionOf(buf, f.id)
				if !ok {
					altered := f.found(f.id, buf[:n], 0, 0, n)
					f.alters(f.id, &altered)
					return errAltered
				}
				c.begin = number * connectionRoom
			}
		}
		f.bytes(f.id, n)
		if altered := c.check(buf[:n]); altered != nil {
			more, _ := io.ReadFull(conn, buf[n:min(len(buf), n+keptBytes)]) // what there is
			if wider := (&checker{f.ledger, f.id, c.begin, c.position - uint64(n)}).check(buf[:n+more]); wider != nil {
				altered = wider
			}
			f.alters(f.id, altered)
			return errAltered
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
