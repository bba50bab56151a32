package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/budget"
	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/nstest"
)

// heard keeps what a Watcher is told.
type heard struct {
	mu       sync.Mutex
	refused  map[netip.AddrPort]syscall.Errno
	reported map[PathError]int
}

func newHeard(c *Conn) *heard {
	h := &heard{refused: map[netip.AddrPort]syscall.Errno{}, reported: map[PathError]int{}}
	c.Watch(h)
	return h
}

func (h *heard) Refused(to netip.AddrPort, why syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refused[to] = why
}

func (h *heard) Reported(e PathError) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reported[e]++
}

func (h *heard) count(e PathError) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reported[e]
}

// closedPort returns an address at which no program listens.
func closedPort(t testing.TB, local string) netip.AddrPort {
	t.Helper()
	c, err := Open(netip.MustParseAddrPort(local), false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

// ICMP errors about datagrams to one peer cost no datagram to another, in one batch with them, and while
// others send and receive by the same socket.
func TestErrorsOfOnePeerCostNoOther(t *testing.T) {
	for _, local := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(local, func(t *testing.T) {
			a, from := listen(t, local)
			b, good := listen(t, local)
			dead := closedPort(t, local)
			told := newHeard(a)

			// Echoes are sent, and datagrams received, beside.
			done := make(chan error, 2)
			go func() {
				s := a.NewSender(4)
				for range 2000 {
					if n, err := s.Write([]packet.Burst{one(dead, []byte("x"))}); n != 1 || err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
			go func() {
				r, ds := a.NewReceiver(4), packet.NewDatagrams(4)
				for {
					if _, err := r.Read(ds); errors.Is(err, os.ErrDeadlineExceeded) {
						done <- nil
						return
					} else if err != nil {
						done <- err
						return
					}
				}
			}()

			const batches, pairs = 200, 8
			s, got := a.NewSender(2*pairs), 0
			for i := range batches {
				var bs []packet.Burst
				for range pairs {
					bs = append(bs, one(dead, []byte("dead")), one(good, []byte{byte(i)}))
				}
				if n, err := s.Write(bs); n != len(bs) || err != nil {
					t.Fatalf("Write: %d, %v", n, err)
				}
				for _, d := range readAll(t, b, pairs) {
					if len(d.Data) != 1 || d.Data[0] != byte(i) || d.Addr != from {
						t.Fatalf("batch %d: %q from %s", i, d.Data, d.Addr)
					}
					got++
				}
			}
			if got != batches*pairs {
				t.Errorf("%d of %d datagrams arrived", got, batches*pairs)
			}
			if err := <-done; err != nil { // the one who sends: the other waits for Wake
				t.Errorf("beside: %v", err)
			}
			if err := a.Wake(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Errorf("beside: %v", err)
			}
			if err := a.ReadErrors(); err != nil {
				t.Fatal(err)
			}
			e := PathError{To: dead, Offender: dead.Addr(), Type: 3, Code: 3} // RFC 792: port unreachable
			if a.v6 {
				e.Type, e.Code = 1, 4 // RFC 4443
			}
			if told.count(e) < batches || len(told.reported) != 1 || len(told.refused) != 0 {
				t.Errorf("told of %v and %v, want %v", told.reported, told.refused, e)
			}
		})
	}
}

// What this host refuses itself is told with its error and is counted in place, between what leaves.
func TestRefusalsOfThisHostAreTold(t *testing.T) {
	nstest.RequirePrograms(t, "run `make deps`", "nft")
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		for _, command := range [][]string{
			{"ip", "link", "set", "lo", "up"},
			{"ip", "route", "add", "prohibit", "192.0.2.1"},
			{"ip", "route", "add", "unreachable", "192.0.2.2"},
			{"nft", "add table ip t; add chain ip t o { type filter hook output priority 0; };" +
				"add rule ip t o ip daddr 127.0.0.9 drop"},
		} {
			if out, err := n.Run(command[0], command[1:]...); err != nil {
				t.Fatal(out, err)
			}
		}
		a, err := Open(netip.MustParseAddrPort("0.0.0.0:0"), true)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		b, err := Open(netip.MustParseAddrPort("127.0.0.1:9000"), false)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		told, s := newHeard(a), a.NewSender(8)
		good := one(netip.MustParseAddrPort("127.0.0.1:9000"), []byte("x"))
		for to, want := range map[string]syscall.Errno{
			"192.0.2.1:9": unix.EACCES, "192.0.2.2:9": unix.EHOSTUNREACH, "192.0.2.3:9": unix.ENETUNREACH,
			"127.0.0.9:9": unix.EPERM,
		} {
			bad := one(netip.MustParseAddrPort(to), []byte("y"))
			bs := []packet.Burst{good, bad, good}
			if n, err := s.Write(bs); n != 1 || !errors.Is(err, want) {
				t.Errorf("%s: %d, %v, want %v", to, n, err, want)
			}
			if n, err := s.Write(bs[2:]); n != 1 || err != nil {
				t.Errorf("behind %s: %d, %v", to, n, err)
			}
			readAll(t, b, 2)
			if got := told.refused[bad.Addr]; got != want {
				t.Errorf("%s: told of %v, want %v", to, got, want)
			}
		}
		if _, err := s.Write([]packet.Burst{one(good.Addr, make([]byte, packet.MaxSize))}); err == nil {
			t.Error("too large, and sent")
		}
		if len(told.refused) != 4 || len(told.reported) != 0 {
			t.Errorf("told of %v and %v", told.refused, told.reported)
		}
	})
}

// FuzzPathError reads control data of any kind: its lengths come from the kernel, and are checked.
func FuzzPathError(f *testing.F) {
	f.Add([]byte{})
	good := make([]byte, unix.CmsgSpace(32))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&good[0]))
	h.Level, h.Type = unix.IPPROTO_IP, unix.IP_RECVERR
	h.SetLen(unix.CmsgLen(32))
	good[unix.CmsgLen(4)] = unix.SO_EE_ORIGIN_ICMP
	good[unix.CmsgLen(16)] = unix.AF_INET
	f.Add(good)
	f.Fuzz(func(t *testing.T, control []byte) {
		defer budget.Of(t)()
		aligned := make([]uint64, len(control)/8+1)
		c := unsafe.Slice((*byte)(unsafe.Pointer(&aligned[0])), len(control))
		copy(c, control)
		if e, ok := pathError(c); !ok && e.To.IsValid() {
			t.Errorf("%v", e)
		}
	})
}
