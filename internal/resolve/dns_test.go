package resolve

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"example.org/meshd/internal/budget"
)

// serve starts a server, which ends with the test, and returns a Dialer that leads all questions to it.
func serve(t *testing.T, answer func(id uint16, q dnsmessage.Question, over string) []byte) Dialer {
	t.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close(); tcp.Close() })
	reply := func(request []byte, over string) []byte {
		var p dnsmessage.Parser
		header, err := p.Start(request)
		if err != nil {
			return nil
		}
		q, err := p.Question()
		if err != nil {
			return nil
		}
		return answer(header.ID, q, over)
	}
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if m := reply(b[:n], "udp"); m != nil {
				_, _ = udp.WriteToUDPAddrPort(m, from)
			}
		}
	}()
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			var size [2]byte
			_, _ = io.ReadFull(c, size[:])
			request := make([]byte, binary.BigEndian.Uint16(size[:]))
			_, _ = io.ReadFull(c, request)
			m := reply(request, "tcp")
			_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
			c.Close()
		}
	}()
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, udp.LocalAddr().String())
	}
}

// message builds an answer with some addresses of one time to live.
func message(
	id uint16, q dnsmessage.Question, code dnsmessage.RCode, ttl uint32, cut bool, all ...netip.Addr,
) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, Response: true, RecursionAvailable: true,
		RCode: code, Truncated: cut})
	b.EnableCompression()
	_ = b.StartQuestions()
	_ = b.Question(q)
	_ = b.StartAnswers()
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl}
	for _, ip := range all {
		switch {
		case ip.Is4() && q.Type == dnsmessage.TypeA:
			_ = b.AResource(h, dnsmessage.AResource{A: ip.As4()})
		case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
			_ = b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: ip.As16()})
		}
	}
	m, err := b.Finish()
	if err != nil {
		panic(err)
	}
	return m
}

func TestAsk(t *testing.T) {
	var many []netip.Addr
	for i := range 1000 {
		many = append(many, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	const ok, missing, broken = dnsmessage.RCodeSuccess, dnsmessage.RCodeNameError, dnsmessage.RCodeServerFailure
	both := addrs("10.0.0.2", "10.0.0.1", "10.0.0.2", "2001:db8::1")
	for _, test := range []struct {
		name, network string
		answer        func(id uint16, q dnsmessage.Question, over string) []byte
		want          string
		ttl           time.Duration
		err           error
	}{
		{"IPv4", "ip4", func(id uint16, q dnsmessage.Question, _ string) []byte {
			return message(id, q, ok, 77, false, both...)
		}, "10.0.0.1 10.0.0.2", 77 * time.Second, nil},
		{"IPv6", "ip6", func(id uint16, q dnsmessage.Question, _ string) []byte {
			return message(id, q, ok, 77, false, both...)
		}, "2001:db8::1", 77 * time.Second, nil},
		{"a negative time to live", "ip4", func(id uint16, q dnsmessage.Question, _ string) []byte {
			return message(id, q, ok, 1<<31+5, false, both...)
		}, "10.0.0.1 10.0.0.2", 0, nil},
		{"none of the family", "ip6", func(id uint16, q dnsmessage.Question, _ string) []byte {
			return message(id, q, ok, 77, false, both[:2]...)
		}, "", 0, ErrNotFound},
		{"NXDOMAIN", "ip4", func(id uint16, q dnsmessage.Question, _ string) []byte {
			return message(id, q, missing, 0, false)
		}, "", 0, ErrNotFound},
		{"SERVFAIL", "ip4", func(id uint16, q dnsmessage.Question, _ string) []byte {
			return message(id, q, broken, 0, false)
		}, "", 0, ErrServer},
		{"silence", "ip4", func(uint16, dnsmessage.Question, string) []byte { return nil }, "", 0, ErrTimeout},
		{"noise", "ip4", func(uint16, dnsmessage.Question, string) []byte { return []byte("noise noise") }, "", 0,
			ErrTimeout},
		{"a broken answer", "ip4", func(id uint16, q dnsmessage.Question, _ string) []byte {
			m := message(id, q, ok, 77, false, both...)
			return m[:len(m)-40]
		}, "", 0, ErrServer},
		{"a thousand records, over TCP", "ip4", func(id uint16, q dnsmessage.Question, over string) []byte {
			if over == "udp" {
				return message(id, q, ok, 99, true, many[:5]...)
			}
			return message(id, q, ok, 98, false, many...)
		}, texts(many), 98 * time.Second, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel() // some wait for a deadline
			all, ttl, err := serve(t, test.answer).ask(t.Context(), test.network, "edge.example")
			if texts(all) != test.want || ttl != test.ttl || !errors.Is(err, test.err) ||
				(err == nil) != (test.err == nil) {
				t.Errorf("%.100s, %s, %v, want %.100s, %s, %v", texts(all), ttl, err, test.want, test.ttl, test.err)
			}
		})
	}
}

// What is not there at all has words of its own, and a question ends with its asker.
func TestAskNobody(t *testing.T) {
	refuse := Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
		udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, err
		}
		at := udp.LocalAddr().String()
		udp.Close() // nothing listens there now
		var d net.Dialer
		return d.DialContext(ctx, network, at)
	})
	if _, _, err := refuse.ask(t.Context(), "ip4", "edge.example"); !errors.Is(err, ErrNoServer) {
		t.Errorf("refused: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	silent := serve(t, func(uint16, dnsmessage.Question, string) []byte { return nil })
	if _, _, err := silent.ask(ctx, "ip4", "edge.example"); !errors.Is(err, ErrTimeout) {
		t.Errorf("canceled: %v", err)
	}
}

// Names of /etc/hosts need no server.
func TestHostsFile(t *testing.T) {
	none := Dialer(func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no network")
	})
	all, _, err := none.ask(t.Context(), "ip4", "localhost")
	if err != nil || !strings.HasPrefix(texts(all), "127.") {
		t.Errorf("%v, %v", all, err)
	}
}

// someQuestion is one for the IPv4 addresses of a name.
var someQuestion = dnsmessage.Question{
	Name: dnsmessage.MustNewName("a.b."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}

// Whatever arrives, the reading ends, and gives what the slow way gives.
func FuzzLowestTTL(f *testing.F) {
	q := someQuestion
	whole := message(7, q, dnsmessage.RCodeSuccess, 60, false, addrs("10.0.0.1", "10.0.0.2")...)
	for cut := range whole {
		f.Add(whole[:cut])
	}
	f.Add(whole)
	f.Add([]byte("\x00\x00\x80\x00\xff\xff\xff\xff\xff\xff\xff\xff\xc0\x0c\xc0\x0c"))
	f.Fuzz(func(t *testing.T, message []byte) {
		defer budget.Of(t)()
		ttl, ok := lowestTTL(message)
		if ttl < 0 || !ok && ttl != 0 {
			t.Errorf("%s, %t", ttl, ok)
		}
		var m dnsmessage.Message
		if m.Unpack(message) != nil || !m.Response || m.RCode != dnsmessage.RCodeSuccess {
			return
		}
		want, some := time.Duration(0), false
		for _, a := range m.Answers {
			one := time.Duration(a.Header.TTL) * time.Second
			if a.Header.TTL >= 1<<31 {
				one = 0
			}
			if !some || one < want {
				want, some = one, true
			}
		}
		if ttl != want || ok != some {
			t.Errorf("%s, %t, want %s, %t", ttl, ok, want, some)
		}
	})
}

// A message that arrives byte by byte is one message.
func TestStreamInPieces(t *testing.T) {
	q := someQuestion
	m := message(7, q, dnsmessage.RCodeSuccess, 60, false, addrs("10.0.0.1")...)
	m = append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)
	for _, size := range []int{1, 2, 3, 7, len(m)} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			here, there := net.Pipe()
			defer here.Close()
			go func() { _, _ = there.Write(m); there.Close() }()
			w := &watch{}
			s := &stream{Conn: here, watch: w}
			b := make([]byte, size)
			for {
				if _, err := s.Read(b); err != nil {
					break
				}
			}
			if w.lowest() != time.Minute || len(s.parted) > 0 {
				t.Errorf("%s, %d bytes are left", w.lowest(), len(s.parted))
			}
		})
	}
}
