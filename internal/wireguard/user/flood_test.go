package user

import (
	"crypto/rand"
	"net"
	"sync/atomic"
	"testing"
	"time"

	wireguardgo "golang.zx2c4.com/wireguard/device"

	"example.org/meshd/internal/nstest"
)

// A stranger sends initiations of handshakes to a host: 148 bytes of noise with the type of one.
type stranger struct {
	conn      *net.UDPConn
	sent, got atomic.Uint64 // bytes
}

// newStranger has a host without a key of the mesh speak to the port of another one.
func newStranger(t *testing.T, from, to *host) *stranger {
	t.Helper()
	s := &stranger{}
	must(t, from.Do(func() (err error) {
		s.conn, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to.as().Endpoint))
		return err
	}))
	t.Cleanup(func() { s.conn.Close() })
	go func() {
		for b := make([]byte, 2048); ; {
			n, err := s.conn.Read(b)
			if err != nil {
				return
			}
			s.got.Add(uint64(n))
		}
	}()
	return s
}

// initiation returns one. With key, the first of its two authentication codes is right: whoever knows the
// public key of a host can make that (section 5.4.4 of the WireGuard paper).
func initiation(key *wireguardgo.NoisePublicKey) []byte {
	b := make([]byte, wireguardgo.MessageInitiationSize)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	copy(b, []byte{wireguardgo.MessageInitiationType, 0, 0, 0})
	if key != nil {
		var g wireguardgo.CookieGenerator
		g.Init(*key)
		g.AddMacs(b)
	}
	return b
}

// send sends messages in turn until enough were sent, or stop is closed.
func (s *stranger) send(t *testing.T, messages [][]byte, enough int, stop <-chan struct{}) {
	for i := range enough {
		select {
		case <-stop:
			return
		default:
		}
		n, err := s.conn.Write(messages[i%len(messages)])
		if err != nil {
			t.Error(err)
			return
		}
		s.sent.Add(uint64(n))
	}
}

// Whoever floods the port of a host does not stop packets of its peers. A stranger who does not know the
// host's public key gets no answer, and whoever knows it gets one under load alone, of less than half as many
// bytes.
func TestFlood(t *testing.T) {
	nstest.Share(t, nstest.Loaded)
	const flood, quiet = 1_000_000, 50
	all := hosts(t, 3)
	a, b, c := all[0], all[1], all[2]
	must(t, a.set(b.as()))
	must(t, b.set(a.as()))
	must(t, a.up())
	must(t, b.up())
	must(t, b.ping(a))
	public := wireguardgo.NoisePublicKey(a.public())
	for _, test := range []struct {
		name string
		key  *wireguardgo.NoisePublicKey
	}{{"bad codes", nil}, {"good codes", &public}} {
		t.Run(test.name, func(t *testing.T) {
			messages := make([][]byte, 256)
			for i := range messages {
				messages[i] = initiation(test.key)
			}
			calm := newStranger(t, c, a)
			for i := range quiet { // each is answered or not by the time that the ping is
				calm.send(t, messages[i:], 1, nil)
				must(t, b.ping(a))
			}
			if got := calm.got.Load(); got != 0 {
				t.Errorf("without load, %d bytes answer %d messages", got, quiet)
			}
			s, stop, over := newStranger(t, c, a), make(chan struct{}), make(chan struct{})
			go func() {
				defer close(over)
				s.send(t, messages, flood, stop)
			}()
			pings := 0
			for end := time.After(3 * time.Second); end != nil; pings++ {
				must(t, b.ping(a))
				select {
				case <-end:
					end = nil
				case <-over:
					end = nil
				default:
				}
			}
			close(stop)
			<-over
			must(t, b.ping(a))
			sent, got := s.sent.Load(), s.got.Load()
			t.Logf("%d messages, answered by %d bytes for %d; %d pings were answered meanwhile",
				sent/wireguardgo.MessageInitiationSize, got, sent, pings)
			if got > sent/2 || test.key == nil && got > 0 {
				t.Errorf("%d bytes are answered by %d", sent, got)
			}
		})
	}
}
