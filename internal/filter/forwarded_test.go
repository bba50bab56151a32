package filter

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"example.org/meshd/internal/dataplane/virtio"
	"example.org/meshd/internal/nft"
	"example.org/meshd/internal/nstest"
)

// What `nft list` says of the rules for forwarded probes, and that damage to them is mended.
func TestForwardedAsNftShowsIt(t *testing.T) {
	for name, test := range map[string]struct{ trace, port uint16 }{
		"probe": {}, "probe-traced": {trace: 0x1234}, "probe-inside": {port: 8286},
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				l, err := nft.OpenLog(28500, 128) // without a reader the kernel has no such group
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				f := NewLast()
				s := ProbeSettings{Payload: []byte("meshd\x00\x01\n"), Group: l.Group(), Trace: test.trace,
					Port: test.port, To: prefixes("10.244.2.0/24", "fd00:2::/64")}
				if err := f.Take(s); err != nil {
					t.Fatal(err)
				}
				got, file := ruleset(t, n), "testdata/"+name+".nft"
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if want, err := os.ReadFile(file); err != nil || got != string(want) {
					t.Errorf("got:\n%s\nwant:\n%s", got, want)
				}
				for _, damage := range []string{"flush ruleset", "flush chain inet meshd-last probe"} {
					if _, err := n.Run("nft", damage); err != nil {
						t.Fatal(err)
					}
					if err := f.Take(s); err != nil || ruleset(t, n) != got {
						t.Errorf("after %q: %v\n%s", damage, err, ruleset(t, n))
					}
				}
				if changed, err := f.set(); err != nil || changed {
					t.Errorf("the kernel has the rules, yet they are written again: %v", err)
				}
				if removed, err := CleanUp(); err != nil || !removed || ruleset(t, n) != "" {
					t.Errorf("%v, %v\n%s", removed, err, ruleset(t, n))
				}
			})
		})
	}
}

// Probes to pods are taken whichever of meshd's interfaces they come in by, and only those that the guard of
// the encrypted interface has let pass.
func TestForwardedByBothInterfaces(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		if err := errors.Join(n.IP("link add cni0 type bridge", "link set cni0 up",
			"addr add 10.244.2.1/24 dev cni0", "addr add 10.9.9.1/24 dev cni0",
			"addr add fd00:2::1/64 dev cni0 nodad"),
			n.Sysctl("ipv4.ip_forward", "1"), n.Sysctl("ipv6.conf.all.forwarding", "1")); err != nil {
			t.Fatal(err)
		}
		l, err := nft.OpenLog(28500, 128)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, g := NewLast(), NewInner()
		defer g.Close()
		own := prefixes("10.244.2.0/24", "fd00:2::/64")
		payload := "meshd\x00\x01\n"
		if err := f.Take(ProbeSettings{Payload: []byte(payload), Group: l.Group(), To: own}); err != nil {
			t.Fatal(err)
		}
		var sent []string
		for _, name := range []string{"mesh0", "meshd-wg"} {
			write := opened(t, n, name).Writer()
			if name == "meshd-wg" {
				guarded := sealed("10.244.2.0/24", "fd00:2::/64")
				if _, err := g.Set(guarded, indexOf(t, name)); err != nil {
					t.Fatal(err)
				}
			}
			if err := n.IP("route replace 10.244.1.0/24 dev "+name,
				"route replace fd00:1::/64 dev "+name); err != nil {
				t.Fatal(err)
			}
			for _, to := range []string{"10.9.9.9", "10.244.2.9", "fd00:2::9"} { // the first is no pod's
				if err := write([][]byte{make([]byte, virtio.HeaderSize), echoTo(to, payload)}); err != nil {
					t.Fatal(err)
				}
				if to != "10.9.9.9" {
					sent = append(sent, to)
				}
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var got []string
		if err := l.Read(ctx, func(b []byte, _ int) {
			to := netip.AddrFrom4([4]byte(b[16:]))
			if b[0]>>4 == 6 {
				to = netip.AddrFrom16([16]byte(b[24:]))
			}
			if got = append(got, to.String()); len(got) == len(sent) {
				cancel()
			}
		}); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
		if len(got) != len(sent) || got[0] != sent[0] || got[len(got)-1] != sent[len(sent)-1] {
			t.Errorf("taken: %q, want %q", got, sent)
		}
	})
}

// echoTo returns an echo request of a peer.
func echoTo(to, payload string) []byte {
	dst, from := netip.MustParseAddr(to), netip.MustParseAddr("10.244.1.0")
	if dst.Is6() {
		from = netip.MustParseAddr("fd00:1::")
	}
	request, icmp, pseudo := byte(8), byte(1), []byte(nil)
	if dst.Is6() {
		request, icmp = 128, 58
		length := []byte{0, 0, 0, byte(8 + len(payload)), 0, 0, 0, icmp}
		pseudo = append(append(from.AsSlice(), dst.AsSlice()...), length...)
	}
	echo := append([]byte{request, 0, 0, 0, 0, 1, 0, 1}, payload...)
	binary.BigEndian.PutUint16(echo[2:], ^sumOf(append(pseudo, echo...)))
	return ipTo(from, dst, icmp, echo)
}
