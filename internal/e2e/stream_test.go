package e2e

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"example.org/meshd/internal/nstest"
)

// listenTCP listens in a pod until the test ends.
func listenTCP(t *testing.T, n *nstest.Namespace, address string) (l net.Listener) {
	t.Helper()
	if err := n.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve answers every TCP connection in a pod with the address it came from.
func serve(t *testing.T, n *nstest.Namespace, address string) {
	t.Helper()
	l := listenTCP(t, n, address)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(dialPatience)) // a failure is the asker's to see
			_, _ = io.WriteString(conn, conn.RemoteAddr().String())
			conn.Close()
		}
	}()
}

// askWho connects from a namespace and returns the address the server saw.
func askWho(n *nstest.Namespace, address string) (netip.Addr, error) {
	var reply []byte
	err := n.Do(func() error {
		conn, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		reply, err = io.ReadAll(conn)
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	seen, err := netip.ParseAddrPort(string(reply))
	return seen.Addr(), err
}

func seenAs(t *testing.T, n *nstest.Namespace, address, want string) {
	t.Helper()
	if got, err := askWho(n, address); err != nil || got != netip.MustParseAddr(want) {
		t.Errorf("%s saw %s come from %v, %v; want %s", address, n.Name, got, err, want)
	}
}

// stream is one TCP connection between two namespaces whose far end echoes.
type stream struct {
	net.Conn
	server net.Conn
}

func dialStream(from, to *nstest.Namespace, address string) (*stream, error) {
	var l net.Listener
	if err := to.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	}); err != nil {
		return nil, err
	}
	defer l.Close()
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(dialPatience)); err != nil {
		return nil, err
	}
	s := &stream{}
	if err := from.Do(func() (err error) {
		s.Conn, err = net.DialTimeout("tcp", address, dialPatience)
		return err
	}); err != nil {
		return nil, err
	}
	var err error
	if s.server, err = l.Accept(); err != nil {
		return nil, errors.Join(err, s.Conn.Close())
	}
	return s, nil
}

// dialPatience is how long a connection may take: two lost SYNs and more.
const dialPatience = 10 * time.Second

// deadline gives both ends some time, from now on, for all that they read and write.
func (s *stream) deadline(patience time.Duration) error {
	at := time.Now().Add(patience)
	return errors.Join(s.Conn.SetDeadline(at), s.server.SetDeadline(at))
}

// startDownload lets the far end of a connection send without a pause until the
// returned function is called, which checks every byte of what came.
func startDownload(t *testing.T, from, to *nstest.Namespace, address string) (finish func()) {
	t.Helper()
	s, err := dialStream(from, to, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return download(t, s)
}

// download is startDownload by a connection that there is.
func download(t *testing.T, s *stream) (finish func()) {
	t.Helper()
	if err := s.deadline(3 * time.Minute); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error, 2)
	const chunk = 1 << 16
	go func() {
		for i := uint64(0); ; i++ {
			select {
			case <-stop:
				done <- s.server.(*net.TCPConn).CloseWrite()
				return
			default:
			}
			if err := sendStream(s.server, i, chunk); err != nil {
				done <- errors.Join(err, s.Close()) // the other end must not wait
				return
			}
		}
	}()
	received := uint64(0)
	go func() {
		for ; ; received++ {
			if err := checkStream(s.Conn, received, chunk); errors.Is(err, io.EOF) {
				done <- nil
				return
			} else if err != nil {
				done <- errors.Join(err, s.Close())
				return
			}
		}
	}()
	return func() {
		t.Helper()
		close(stop)
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("the download: %v", err)
			}
		}
		if received == 0 {
			t.Error("the download never began")
		}
		t.Logf("downloaded %d MiB through NAT meanwhile", received*chunk>>20)
	}
}

// echo sends text there and back.
func (s *stream) echo(text string) error {
	if err := s.deadline(10 * time.Second); err != nil {
		return err
	}
	buf := make([]byte, len(text))
	for _, ends := range [][2]net.Conn{{s.Conn, s.server}, {s.server, s.Conn}} {
		if _, err := io.WriteString(ends[0], text); err != nil {
			return err
		}
		if _, err := io.ReadFull(ends[1], buf); err != nil || string(buf) != text {
			return fmt.Errorf("%q, %w", buf, err)
		}
	}
	return nil
}

func (s *stream) Close() error { return errors.Join(s.Conn.Close(), s.server.Close()) }

// patienceFor returns how long a transfer may take: also where a daemon that looks for races
// moves each packet by itself, on a CPU that others use, a megabyte a second gets through.
func patienceFor(size int64) time.Duration {
	return patience + time.Duration(size>>20)*patience/30
}

// transfer sends size random bytes through TCP and compares their hashes. Whichever end
// fails first closes both, so that neither waits for the other.
func transfer(t *testing.T, from, to *nstest.Namespace, address string, size int64) {
	t.Helper()
	s, err := dialStream(from, to, address)
	if err != nil {
		t.Error(err)
		return
	}
	defer s.Close()
	began, patience := time.Now(), patienceFor(size)
	if err := s.deadline(patience); err != nil {
		t.Fatal(err)
	}
	hashes := [2]hash.Hash{sha256.New(), sha256.New()}
	var sent, received int64
	end := func(err error) error {
		if err != nil {
			s.Close()
		}
		return err
	}
	sender := make(chan error, 1)
	go func() {
		var err error
		random := rand.NewChaCha8([32]byte{byte(size)})
		if sent, err = io.Copy(io.MultiWriter(hashes[0], s.Conn), io.LimitReader(random, size)); err == nil {
			err = s.Conn.(*net.TCPConn).CloseWrite()
		}
		sender <- end(err)
	}()
	received, err = io.Copy(hashes[1], s.server)
	err = errors.Join(end(err), <-sender)
	if err != nil || received != size {
		t.Errorf("%s: %d of %d bytes sent, %d received in %v of %v: %v",
			address, sent, size, received, time.Since(began).Round(time.Millisecond), patience, err)
		return
	}
	if !slices.Equal(hashes[0].Sum(nil), hashes[1].Sum(nil)) {
		t.Errorf("%s: other bytes arrived than were sent", address)
	}
}

// connect makes a TCP connection from pod 10.244.2.3 to an address of pod
// 10.244.1.2. Both ends are good for a while and close with the test.
func (m *mesh) connect(t *testing.T, address string) (client, server net.Conn) {
	t.Helper()
	s, err := dialStream(m.PodW2b, m.PodW, address)
	if err == nil {
		t.Cleanup(func() { s.Close() })
		err = s.deadline(time.Minute)
	}
	if err != nil {
		t.Fatalf("%v\nworker2 %+v\nworker %+v", err, status(t, m.w2), status(t, m.w))
	}
	return s.Conn, s.server
}

// inverse is that of the factor in word, modulo 2^64: it tells which word one is.
const inverse = 0xf1de83e19937733d

// word is the nth word of a stream that repeats only after 2^64 words.
func word(stream, n uint64) uint64 { return (n + stream) * 0x9e3779b97f4a7c15 }

func sendStream(conn net.Conn, stream uint64, size int) error {
	buf := make([]byte, size)
	for i := 0; i < size; i += 8 {
		binary.BigEndian.PutUint64(buf[i:], word(stream, uint64(i)))
	}
	_, err := conn.Write(buf)
	return err
}

func checkStream(conn net.Conn, stream uint64, size int) error {
	buf := make([]byte, size)
	for got := 0; got < size; {
		n, err := conn.Read(buf[got:])
		if err != nil {
			return fmt.Errorf("stream %d after %d bytes: %w", stream, got, err)
		}
		got += n
	}
	for i := 0; i < size; i += 8 {
		if got := binary.BigEndian.Uint64(buf[i:]); got != word(stream, uint64(i)) {
			return fmt.Errorf("stream %d is wrong at byte %d: %w: it is what belongs to byte %d: %x", stream, i,
				syscall.EBADMSG, int64(got*inverse-stream), buf[i:min(i+128, size)])
		}
	}
	return nil
}
