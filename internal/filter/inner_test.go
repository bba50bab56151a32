package filter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/dataplane/virtio"
	"example.org/meshd/internal/nft"
	"example.org/meshd/internal/nstest"
)

// sealed is a node with a network behind it, and an encrypted interface.
func sealed(inner ...string) GuardSettings {
	return GuardSettings{
		Nodes: endpoints("172.18.0.3:8285", "172.18.0.4:9000"), Binds: endpoints("172.18.0.3:8285"),
		TUN: "mesh0", PodLinks: []string{"cni0"}, Mark: testMark, Encrypted: "meshd-wg", Inner: prefixes(inner...),
	}
}

// inners are the ways in which kernels can have the rules.
var inners = map[string]func() *Inner{
	"owned":     NewInner, // since Linux 6.9
	"stands-by": func() *Inner { return &Inner{rules: nft.NewKeeper(nft.AtDevices(InnerName))} },
	"no-device": func() *Inner { return &Inner{rules: nft.NewKeeper(nft.Both(InnerName)), nowhere: true} },
}

// The rules at the encrypted interface and their standby, as `nft list` shows them. Set restores what another
// program changes; the kernel refuses changes of what belongs to this process.
func TestInnerAsNftShowsIt(t *testing.T) {
	for name, make := range inners {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				i, s := make(), sealed("10.244.1.0/24", "203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/25",
					"192.0.2.192/26", "fd00:0:0:1::/64")
				if err := n.IP("link add meshd-wg type bridge"); err != nil {
					t.Fatal(err)
				}
				defer i.Close()
				set := func(what string, want bool) {
					t.Helper()
					changed, err := i.Set(s, indexOf(t, "meshd-wg"))
					if err != nil || changed != want || !i.Stands() {
						t.Errorf("%s: changed %v, %v, want %v", what, changed, err, want)
					}
				}
				set("at first", true)
				set("again", false)
				owner := regexp.MustCompile(` # progname .*`)
				got, file := owner.ReplaceAllString(ruleset(t, n), ""), "testdata/inner-"+name+".nft"
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if want, err := os.ReadFile(file); err != nil || got != string(want) {
					t.Errorf("got:\n%s\nwant:\n%s", got, want)
				}
				for table, mine := range map[string]bool{InnerName: i.rules.Owns(), InnerStandbyName: true} {
					words, chain := "netdev "+table, " ingress"
					if i.nowhere {
						words, chain = "inet "+table, " prerouting"
					}
					for _, damage := range []string{"delete table " + words, "flush chain " + words + chain,
						"insert rule " + words + chain + " accept", "add element " + words + " inner4_24 { 1.0.0.0 }"} {
						if _, err := n.Run("nft", damage); (err != nil) != mine {
							t.Errorf("%s: %v", damage, err)
						}
						set("after "+damage, !mine)
					}
				}
				if _, err := i.Set(s, 0); err != nil || strings.Contains(ruleset(t, n), "inner") {
					t.Errorf("without the interface: %v\n%s", err, ruleset(t, n))
				}
				set("with it again", true)
				s.Encrypted = ""
				if changed, err := i.Set(s, 0); err != nil || !changed {
					t.Errorf("nothing is encrypted: %v, %v", changed, err)
				}
				if list := ruleset(t, n); strings.Contains(list, "inner") {
					t.Errorf("left:\n%s", list)
				}
			})
		})
	}
}

// indexOf returns the index of an interface of this namespace.
func indexOf(t *testing.T, name string) int {
	t.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return i.Index
}

// An injector makes packets come in by the TUN that stands for the encrypted interface.
type injector struct {
	t     *testing.T
	write func([][]byte) error
	sent  int
}

// udp sends a datagram with a payload of its own, which it returns.
func (i *injector) udp(from, to string) (payload string) {
	i.t.Helper()
	i.sent++
	payload = fmt.Sprintf("%d to %s", i.sent, to)
	if err := i.write([][]byte{make([]byte, virtio.HeaderSize), datagram(from, to, payload)}); err != nil {
		i.t.Fatal(err)
	}
	return payload
}

// datagram returns an IP packet to UDP port 9000.
func datagram(from, to, payload string) []byte {
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	udp := binary.BigEndian.AppendUint16(nil, 1234)
	udp = binary.BigEndian.AppendUint16(udp, 9000)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, 17, 0, byte(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], ^sumOf(append(pseudo, udp...)))
	return ipTo(src, dst, 17, udp)
}

// ipTo returns an IP packet without options.
func ipTo(src, dst netip.Addr, protocol byte, body []byte) []byte {
	if src.Is6() {
		header := []byte{0x60, 0, 0, 0, 0, byte(len(body)), protocol, 60}
		return append(append(append(header, src.AsSlice()...), dst.AsSlice()...), body...)
	}
	ip := []byte{0x45, 0, 0, byte(20 + len(body)), 0, 0, 0, 0, 60, protocol, 0, 0}
	ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], ^sumOf(ip))
	return append(ip, body...)
}

// sumOf is the sum of RFC 1071.
func sumOf(b []byte) uint16 {
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	sum := uint32(0)
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// next returns the next payload that a socket gets.
func next(t *testing.T, conn *net.UDPConn) string {
	t.Helper()
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// opened makes a TUN that is up, and returns a queue of it.
func opened(t *testing.T, n *nstest.Namespace, name string) *tun.Queue {
	t.Helper()
	if err := errors.Join(tun.Create(name), n.IP("link set "+name+" up")); err != nil {
		t.Fatal(err)
	}
	q, err := tun.Open(name, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

// encryptedLines give the encrypted interface addresses and routes.
var encryptedLines = []string{"addr add 10.244.1.0/32 dev meshd-wg",
	"addr add fd00:0:0:1::/128 dev meshd-wg nodad",
	"route add 10.244.9.0/24 dev meshd-wg", "route add fd00:0:0:9::/64 dev meshd-wg"}

// surround gives a node addresses, and a host behind it that stands for the network behind the node, for one
// that is not the mesh's, and for a third node.
func surround(t *testing.T, n *nstest.Namespace) (beyond *nstest.Namespace) {
	t.Helper()
	beyond = nstest.ForTest(t)
	if err := errors.Join(
		n.IP("link set lo up"), n.IP(encryptedLines...),
		n.IP("addr add 10.244.1.5/32 dev lo",
			"addr add fd00:0:0:1::5/128 dev lo nodad",
			"addr add 192.0.2.1/32 dev lo", "addr add 2001:db8::1/128 dev lo nodad",
			"link add lan type veth peer name eth0 netns "+beyond.Name, "link set lan up",
			"addr add 203.0.113.1/24 dev lan", "addr add fd01::1/64 dev lan nodad",
			"route add 10.244.3.0/24 dev lan", "route add fd00:0:0:3::/64 dev lan",
			"route add 198.51.100.0/24 dev lan"),
		beyond.IP("link set eth0 up", "addr add 203.0.113.2/24 dev eth0", "addr add fd01::2/64 dev eth0 nodad",
			"addr add 10.244.3.7/24 dev eth0", "addr add fd00:0:0:3::7/64 dev eth0 nodad",
			"addr add 198.51.100.2/24 dev eth0"),
		n.Sysctl("ipv4.ip_forward", "1"), n.Sysctl("ipv6.conf.all.forwarding", "1")); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"203.0.113.2", "fd01::2", "10.244.3.7", "fd00:0:0:3::7"} {
		run(t, n, "ping", "-c", "1", "-W", "5", to) // no packet waits for a neighbour, and comes late
	}
	return beyond
}

// innerCases are destinations of what a peer sends.
var innerCases = []struct {
	name, to string
	beyond   bool // it would arrive at the host behind this node
	pass     bool
}{
	{"pod", "10.244.1.5", false, true}, {"TUN's address", "10.244.1.0", false, true},
	{"network behind the node", "203.0.113.2", true, true},
	{"pod, IPv6", "fd00:0:0:1::5", false, true}, {"TUN's address, IPv6", "fd00:0:0:1::", false, true},
	{"network behind the node, IPv6", "fd01::2", true, true},
	{"the host's other address", "192.0.2.1", false, false},
	{"the host's other address, IPv6", "2001:db8::1", false, false},
	{"another network", "198.51.100.2", true, false},
	{"a third node", "10.244.3.7", true, false}, {"a third node, IPv6", "fd00:0:0:3::7", true, false},
	{"all hosts", "224.0.0.1", false, false}, {"broadcast", "255.255.255.255", false, false},
	{"all nodes, IPv6", "ff02::1", false, false}, {"link-local, IPv6", "fe80::1", false, false},
}

// What a peer sends to something behind this node passes, also with the ordinary rules flushed, and by an
// interface that was made anew; all else is dropped and counted, and nothing of it reaches a network, another
// address of the host, or a third node.
func TestInnerByPackets(t *testing.T) {
	for name, make := range inners {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				q := opened(t, n, "meshd-wg")
				in := &injector{t: t, write: q.Writer()}
				beyond := surround(t, n)
				i := make()
				defer i.Close()
				s := sealed("10.244.1.0/24", "203.0.113.0/24", "fd00:0:0:1::/64", "fd01::/64")
				set := func() {
					t.Helper()
					if _, err := i.Set(s, indexOf(t, "meshd-wg")); err != nil {
						t.Fatal(err)
					}
				}
				set()
				anywhere := netip.MustParseAddrPort("[::]:9000")
				r := innerRun{t, i, in, map[bool]*net.UDPConn{false: listen(t, n, anywhere),
					true: listen(t, beyond, anywhere)}, 0}
				r.all("at first")
				run(t, n, "nft", "flush ruleset") // what is lost of the count with ordinary rules was read before
				r.all("flushed")
				set()
				r.all("repaired")
				if err := errors.Join(q.Close(), n.IP("link delete meshd-wg")); err != nil {
					t.Fatal(err)
				}
				in.write = opened(t, n, "meshd-wg").Writer()
				if err := n.IP(encryptedLines...); err != nil {
					t.Fatal(err)
				}
				set()
				r.all("made anew")
				if err := i.Close(); err != nil {
					t.Error(err)
				}
				r.all("closed")
			})
		})
	}
}

// An innerRun sends what peers could send, and looks what arrives.
type innerRun struct {
	t       *testing.T
	i       *Inner
	in      *injector
	conns   map[bool]*net.UDPConn // of this node; and of the host behind it
	dropped uint64
}

// all sends to all destinations.
func (r *innerRun) all(when string) {
	r.t.Helper()
	for _, test := range innerCases {
		from, conn := "10.244.9.9", r.conns[test.beyond]
		if strings.Contains(test.to, ":") {
			from = "fd00:0:0:9::9"
		}
		tried := r.in.udp(from, test.to)
		// This one arrives in any case, and behind the other.
		end := r.in.udp("10.244.9.9", map[bool]string{false: "10.244.1.5", true: "203.0.113.2"}[test.beyond])
		got := next(r.t, conn)
		if got == tried && next(r.t, conn) != end {
			r.t.Errorf("%s, %s: the last one is missing", when, test.name)
		}
		if (got == tried) != test.pass {
			r.t.Errorf("%s, %s: %q arrived", when, test.name, got)
		}
		if !test.pass {
			r.dropped++
		}
		if drops, err := r.i.Drops(); err != nil || drops != r.dropped {
			r.t.Errorf("%s, %s: dropped %v, %v, want %d", when, test.name, drops, err, r.dropped)
		}
	}
}
