package filter

import (
	"flag"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/nstest"
)

var update = flag.Bool("update", false, "rewrite testdata/*.nft")

const testMark = 0x1000

func endpoints(ss ...string) (all []netip.AddrPort) {
	for _, s := range ss {
		all = append(all, netip.MustParseAddrPort(s))
	}
	return all
}

// What `nft list` says of the guard, and that whatever somebody does to it is found and mended.
func TestGuardAsNftShowsIt(t *testing.T) {
	for name, bind := range map[string]string{"v4": "172.18.0.3:8285", "v6": "[fd10::3]:8285", "everywhere": "0.0.0.0:8285"} {
		t.Run(name, func(t *testing.T) {
			nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
				g := NewGuard()
				s := GuardSettings{
					Nodes: endpoints("172.18.0.3:8285", "172.18.0.4:9000", "[fd10::3]:8285"), Bind: netip.MustParseAddrPort(bind),
					TUN: "mesh0", PodLinks: []string{"cni0", "veth-a"}, Mark: testMark,
				}
				for _, want := range []bool{true, false} {
					if changed, err := g.Set(s); err != nil || changed != want {
						t.Errorf("Set: %v, %v, want %v", changed, err, want)
					}
				}
				// The order of a hash's elements is the kernel's secret.
				got, file := inOrder(ruleset(t, n)), "testdata/guard-"+name+".nft"
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if want, err := os.ReadFile(file); err != nil || got != string(want) {
					t.Errorf("got:\n%s\nwant:\n%s", got, want)
				}
				for _, damage := range []string{
					"flush ruleset", "flush chain inet meshd-filter input; delete chain inet meshd-filter input", "flush chain inet meshd-filter output",
					"delete element inet meshd-filter inside { cni0 }", "delete element inet meshd-filter nodes4 { 172.18.0.4 . 9000 }",
					"add chain inet meshd-filter more { type filter hook output priority -301; }",
					"insert rule inet meshd-filter output accept", "add table inet meshd-filter { flags dormant; }",
				} {
					run(t, n, "nft", damage)
					for _, want := range []bool{true, false} {
						if changed, err := g.Set(s); err != nil || changed != want {
							t.Errorf("after %q: %v, %v, want %v", damage, changed, err, want)
						}
					}
					if whole := inOrder(ruleset(t, n)); whole != got {
						t.Errorf("after %q:\n%s", damage, whole)
					}
				}
				for _, want := range []bool{true, false} {
					if removed, err := CleanUp(); err != nil || removed != want || ruleset(t, n) != "" {
						t.Errorf("CleanUp: %v, %v, left:\n%s", removed, err, ruleset(t, n))
					}
				}
			})
		})
	}
}

// inOrder sorts the elements of each set.
func inOrder(ruleset string) string {
	return regexp.MustCompile(`(?s)elements = \{.*?\}`).ReplaceAllStringFunc(ruleset, func(list string) string {
		elements := regexp.MustCompile(`[^,{}=\s][^,{}=]*[^,{}=\s]`).FindAllString(strings.TrimPrefix(list, "elements"), -1)
		slices.Sort(elements)
		return "elements = { " + strings.Join(elements, ", ") + " }"
	})
}

// Only a socket with the mark reaches a node's port from this host; other ports are open to all. The
// count of what was dropped outlives the rules.
func TestGuardOutput(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		if err := n.IP("link add u0 type veth peer name v0", "addr add 172.18.0.3/24 dev u0", "link set u0 up", "link set v0 up",
			"addr add fd10::3/64 dev u0 nodad", "neigh add 172.18.0.4 lladdr 02:00:00:00:00:04 dev u0",
			"neigh add fd10::4 lladdr 02:00:00:00:00:04 dev u0"); err != nil {
			t.Fatal(err)
		}
		g := NewGuard()
		s := GuardSettings{
			Nodes: endpoints("172.18.0.3:8285", "172.18.0.4:9000", "[fd10::4]:9000"), Bind: netip.MustParseAddrPort("172.18.0.3:8285"),
			TUN: "mesh0", Mark: testMark,
		}
		if _, err := g.Set(s); err != nil {
			t.Fatal(err)
		}
		dropped := uint64(0)
		for _, test := range []struct {
			to   string
			mark int
			pass bool
		}{
			{"172.18.0.4:9000", testMark, true}, {"172.18.0.4:9000", 0, false}, {"172.18.0.4:9000", testMark | 1, false},
			{"172.18.0.4:8285", 0, true}, {"172.18.0.3:8285", 0, false}, {"172.18.0.3:8285", testMark, false},
			{"[fd10::4]:9000", testMark, true}, {"[fd10::4]:9000", 0, false}, {"[fd10::4]:9001", 0, true},
		} {
			if !test.pass {
				dropped++
			}
			send(t, test.to, test.mark)
			if got, err := g.Drops(); err != nil || got != dropped {
				t.Errorf("to %s with mark %#x: %d dropped, %v, want %d", test.to, test.mark, got, err, dropped)
				dropped = got
			}
		}
		run(t, n, "nft", "flush ruleset")
		for range 2 {
			if got, err := g.Drops(); err != nil || got != dropped {
				t.Errorf("after a flush: %d dropped, %v, want %d", got, err, dropped)
			}
			if _, err := g.Set(s); err != nil {
				t.Fatal(err)
			}
		}
		send(t, "172.18.0.4:9000", 0)
		if got, err := g.Drops(); err != nil || got != dropped+1 {
			t.Errorf("with new rules: %d dropped, %v, want %d", got, err, dropped+1)
		}
	})
}

// send sends one datagram with a mark; that it is dropped on the way may be an error or none.
func send(t *testing.T, to string, mark int) {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if controlErr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
		}); controlErr != nil {
			return controlErr
		}
		return err
	}}
	conn, err := dialer.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("x"))
}
