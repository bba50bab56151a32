package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/dataplane/packet"
	"example.org/meshd/internal/nstest"
)

// mark returns what a socket's datagrams carry.
func mark(t *testing.T, c *Conn) (n uint32) {
	t.Helper()
	if err := c.control(func(fd int) error {
		v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
		n = uint32(v)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// Every socket has the mark, however it was opened: one that an earlier meshd without marks
// has left, too.
func TestSocketsAreMarked(t *testing.T) {
	for _, local := range []string{"127.0.0.1:0", "[::1]:0"} {
		c, _ := listen(t, local)
		group, err := OpenGroup(netip.MustParseAddrPort(local), true, 2, []*Conn{c})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range append(group, c) {
			defer c.Close()
			if got := mark(t, c); got != Mark {
				t.Errorf("%s: mark %#x", local, got)
			}
		}
		network := map[bool]string{true: "udp4", false: "udp6"}[strings.HasPrefix(local, "127")]
		old, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local)))
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		file, err := old.File()
		if err != nil {
			t.Fatal(err)
		}
		adopted, err := Adopt(file, []netip.AddrPort{old.LocalAddr().(*net.UDPAddr).AddrPort()}, true, false)
		if err != nil {
			t.Fatal(err)
		}
		defer adopted.Close()
		if got := mark(t, adopted); got != Mark {
			t.Errorf("%s: adopted with mark %#x", local, got)
		}
	}
}

// What leaves has the mark, sent in one piece, several at once, or in fragments: a rule that
// drops all else to the port lets it pass.
func TestDatagramsAreMarked(t *testing.T) {
	nstest.RequirePrograms(t, "run `make deps`", "nft")
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		a, err := Open(netip.MustParseAddrPort("127.0.0.1:0"), true)
		if err != nil {
			t.Error(err)
			return
		}
		defer a.Close()
		b, err := Open(netip.MustParseAddrPort("127.0.0.1:9000"), false)
		if err != nil {
			t.Error(err)
			return
		}
		defer b.Close()
		const rules = "table inet t { chain c { type filter hook output priority 0; " +
			"udp dport 9000 meta mark != 0x1000 drop; }; }"
		if out, err := n.Run("nft", rules); err != nil {
			t.Error(err, out)
			return
		}
		to, sender := netip.MustParseAddrPort("127.0.0.1:9000"), a.NewSender(4)
		strangersAreDropped(t, to)
		several := packet.Burst{Addr: to}
		several.Add([]byte("two"))
		several.Add([]byte("3rd"))
		if n, err := sender.Write([]packet.Burst{one(to, []byte("one")), several}); n != 2 || err != nil {
			t.Errorf("%d sent, %v", n, err)
		}
		cut := one(to, []byte("cut"))
		if err := sender.WriteFragmented(&cut, 0); err != nil {
			t.Error(err)
		}
		var got []string
		for _, d := range readAll(t, b, 4) {
			got = append(got, string(d.Data))
		}
		if words := strings.Join(got, " "); words != "one two 3rd cut" {
			t.Errorf("arrived: %s", words)
		}
	})
}

// strangersAreDropped checks that a datagram without the mark is dropped at the sender, which gets an
// error.
func strangersAreDropped(t *testing.T, to netip.AddrPort) {
	t.Helper()
	stranger, err := net.Dial("udp4", to.String())
	if err != nil {
		t.Error(err)
		return
	}
	defer stranger.Close()
	if _, err := stranger.Write([]byte("stranger")); !errors.Is(err, unix.EPERM) {
		t.Errorf("a stranger's datagram: %v", err)
	}
}

// Without the capability no socket is opened.
func TestMarkNeedsCapability(t *testing.T) {
	nstest.RequirePrograms(t, "run `make deps`", "setpriv")
	nstest.Require(t)
	if os.Getenv("MESH_UNPRIVILEGED") != "" {
		c, err := Open(netip.MustParseAddrPort("127.0.0.1:0"), true)
		if c != nil || !errors.Is(err, unix.EPERM) {
			t.Errorf("%v, %v", c, err)
		}
		return
	}
	cmd := exec.Command("setpriv", "--bounding-set", "-all",
		os.Args[0], "-test.run", "^TestMarkNeedsCapability$")
	cmd.Env = append(os.Environ(), "MESH_UNPRIVILEGED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
