package forwarding

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/config"
	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/nstest"
)

// A router is node a in a namespace: eth0 is its underlay, cni0 has pods, lan is a network behind
// it, and other is a network that has nothing to do with the mesh.
type router struct {
	*testing.T
	n      *nstest.Namespace
	config *config.Config
	o      Options
	f      *forwarder
}

func newRouter(t *testing.T, n *nstest.Namespace, settings ...string) *router {
	r := &router{T: t, n: n, config: load(t, "", "172.18.0.4"), o: Options{
		Node: "a", State: filepath.Join(t.TempDir(), "state"), Sysctl: true, Log: slog.New(slog.DiscardHandler),
	}}
	r.set(append([]string{"ipv4.ip_forward=0", "ipv6.conf.all.forwarding=0"}, settings...)...)
	for name, address := range map[string]string{
		"eth0": "172.18.0.2/16", "cni0": "10.244.1.1/24", "lan": "192.168.1.1/24", "other": "192.168.9.1/24",
	} {
		r.add(name, address)
	}
	r.must(tun.Create("mesh0"))
	r.f = newForwarder(r.o)
	return r
}

func (r *router) must(err error) {
	r.Helper()
	if err != nil {
		r.Error(err)
	}
}

func (r *router) add(name, address string) {
	r.must(r.n.IP("link add "+name+" type bridge", "link set "+name+" up", "addr add "+address+" dev "+name))
}

// set turns settings below net, as sysctl does.
func (r *router) set(settings ...string) {
	r.Helper()
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		r.must(r.n.Sysctl(key, value))
	}
}

// is compares settings below net.
func (r *router) is(when string, settings ...string) {
	r.Helper()
	for _, s := range settings {
		key, want, _ := strings.Cut(s, "=")
		got, err := os.ReadFile("/proc/sys/net/" + strings.ReplaceAll(key, ".", "/"))
		if err != nil || strings.TrimSpace(string(got)) != want {
			r.Errorf("%s: %s is %q, %v, want %s", when, key, got, err, want)
		}
	}
}

// look does what the daemon does at news of the host.
func (r *router) look(guarded bool) (p *plan, again bool) {
	r.Helper()
	host, err := surroundingsOf(r.config, r.o)
	r.must(err)
	p, err = makePlan(r.config, 0, host)
	if err != nil {
		r.Error(err)
		return &plan{config: r.config}, false
	}
	return p, r.f.follow(p, guarded)
}

// closed compares what must stay apart.
func (r *router) closed(when string, p *plan, v4, v6 string) {
	r.Helper()
	if got := strings.Join(p.closed[false], " "); got != v4 {
		r.Errorf("%s: closed for IPv4: %q, want %q", when, got, v4)
	}
	if got := strings.Join(p.closed[true], " "); got != v6 {
		r.Errorf("%s: closed for IPv6: %q, want %q", when, got, v6)
	}
}

// restart is another run of meshd.
func (r *router) restart() { r.f = newForwarder(r.o) }

func (r *router) restore(words ...string) {
	r.Helper()
	did, err := RestoreForwarding(r.o.State)
	if err != nil || len(did) != len(words) {
		r.Errorf("restored %q, %v, want %q", did, err, words)
	}
	for _, w := range words {
		if !strings.Contains(strings.Join(did, "\n"), w) {
			r.Errorf("restored %q, without %q", did, w)
		}
	}
	if _, err := os.Stat(r.o.State); !errors.Is(err, os.ErrNotExist) {
		r.Errorf("the state folder: %v", err)
	}
}

var (
	before = []string{
		"ipv4.ip_forward=0", "ipv4.conf.default.forwarding=0", "ipv4.conf.eth0.forwarding=0",
		"ipv4.conf.cni0.forwarding=0", "ipv4.conf.lan.forwarding=0", "ipv4.conf.other.forwarding=0",
		"ipv6.conf.all.forwarding=0", "ipv6.conf.default.forwarding=0", "ipv6.conf.eth0.forwarding=0",
		"ipv6.conf.other.forwarding=0",
	}
	opened = []string{
		"ipv4.ip_forward=0", "ipv4.conf.default.forwarding=0", "ipv4.conf.mesh0.forwarding=1",
		"ipv4.conf.eth0.forwarding=1", "ipv4.conf.cni0.forwarding=1", "ipv4.conf.lan.forwarding=1",
		"ipv4.conf.other.forwarding=0", "ipv6.conf.all.forwarding=1", "ipv6.conf.default.forwarding=0",
		"ipv6.conf.mesh0.forwarding=1", "ipv6.conf.eth0.forwarding=0", "ipv6.conf.other.forwarding=0",
	}
)

func TestForwardingIsTurnedOnWhereTheMeshPasses(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n)
		r.is("at first", before...)
		p, again := r.look(true)
		if again || len(r.f.warnings()) > 0 || len(forwardingOff(p)) > 0 {
			t.Errorf("%v, %q, %q", again, r.f.warnings(), forwardingOff(p))
		}
		r.is("turned on", opened...)
		r.closed("before forwarding is on", p, "eth0 lan other", "eth0 lan other")
		p, _ = r.look(true)
		r.closed("afterwards", p, "eth0 lan other", "eth0 lan other")

		// A second bridge of pods, and a network that comes later.
		r.add("cni1", "10.244.0.1/24")
		r.add("late", "192.168.10.1/24")
		p, _ = r.look(true)
		r.is("later", "ipv4.conf.cni1.forwarding=1", "ipv4.conf.late.forwarding=0", "ipv4.ip_forward=0")
		r.closed("later", p, "eth0 lan late other", "eth0 lan late other")

		// The TUN is made anew.
		r.must(n.IP("link del mesh0"))
		r.must(tun.Create("mesh0"))
		r.look(true)
		r.is("with another TUN", opened...)

		// Another run in this boot does not take it for what was found.
		r.restart()
		p, _ = r.look(true)
		r.closed("another run", p, "eth0 lan late other", "eth0 lan late other")
		r.o.Sysctl = false
		r.restart()
		p, _ = r.look(true)
		r.is("a run without --sysctl", opened...)
		r.closed("a run without --sysctl", p, "eth0 lan late other", "eth0 lan late other")

		r.must(n.IP("link del mesh0"))
		r.restore("cni0", "cni1", "eth0", "lan", "IPv6")
		r.is("at the end", before...)
		r.restore()
	})
}

// What somebody turns off is told, and stays off until meshd is started again.
func TestForwardingThatIsLost(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n)
		r.look(true)
		r.set("ipv4.conf.eth0.forwarding=0", "ipv6.conf.all.forwarding=0")
		for range 2 {
			p, _ := r.look(true)
			r.is("turned off", "ipv4.conf.eth0.forwarding=0", "ipv4.conf.mesh0.forwarding=1",
				"ipv6.conf.all.forwarding=0", "ipv6.conf.mesh0.forwarding=0")
			warnings := strings.Join(forwardingOff(p), "\n")
			for _, want := range []string{
				"eth0: forwarding of IPv4 is off", "`sysctl -w net.ipv4.conf.eth0.forwarding=1`",
				"net.ipv6.conf.all.forwarding is 0", "systemctl restart meshd",
			} {
				if !strings.Contains(warnings, want) {
					t.Errorf("no %q in\n%s", want, warnings)
				}
			}
		}
		// Turned on by somebody else it is no longer ours.
		r.set("ipv4.conf.eth0.forwarding=1", "ipv6.conf.all.forwarding=1")
		p, _ := r.look(true)
		r.closed("turned on by another", p, "lan other", "")
		r.restore("cni0", "lan", "mesh0")
		r.is("what another turned on stays", "ipv4.conf.eth0.forwarding=1", "ipv6.conf.all.forwarding=1",
			"ipv4.conf.lan.forwarding=0")
	})
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n)
		r.look(true)
		r.set("ipv4.conf.eth0.forwarding=0", "ipv6.conf.all.forwarding=0")
		r.look(true)
		r.restart()
		r.look(true)
		r.is("another start", opened...)
	})
}

// Whoever turns the global switch wants everything to be forwarded.
func TestForwardingThatOthersTurnOn(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n)
		r.look(true)
		r.set("ipv4.ip_forward=1", "ipv6.conf.default.forwarding=1") // as Docker does
		p, _ := r.look(true)
		r.closed("Docker", p, "", "")
		r.restore()
		r.is("Docker", "ipv4.ip_forward=1", "ipv4.conf.eth0.forwarding=1", "ipv6.conf.all.forwarding=1")
		r.set("ipv4.ip_forward=0")
		r.add("cni1", "10.244.0.1/24")
		p, _ = r.look(true)
		r.is("turned off by another", "ipv4.conf.cni1.forwarding=0", "ipv4.conf.eth0.forwarding=0")
		const want = "net.ipv4.ip_forward is 0: pods cannot reach other hosts; run `sysctl -w "
		if warnings := forwardingOff(p); len(warnings) != 1 || !strings.HasPrefix(warnings[0], want) {
			t.Errorf("%q", warnings)
		}
	})
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n, "ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1")
		r.set("ipv4.conf.other.forwarding=0")
		p, _ := r.look(true)
		r.closed("on at the start", p, "", "")
		if len(forwardingOff(p)) > 0 {
			t.Errorf("%q", forwardingOff(p))
		}
		r.restore() // nothing, not even a folder
		r.is("on at the start", "ipv4.ip_forward=1", "ipv4.conf.other.forwarding=0", "ipv6.conf.all.forwarding=1")
	})
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n)
		r.set("ipv4.conf.other.forwarding=1", "ipv4.conf.eth0.forwarding=1", "ipv6.conf.other.forwarding=1")
		p, _ := r.look(true)
		r.closed("interfaces that others turned on", p, "lan", "eth0 lan")
		r.must(n.IP("link del mesh0"))
		r.restore("cni0", "lan", "IPv6")
		r.is("interfaces that others turned on", "ipv4.conf.other.forwarding=1", "ipv4.conf.eth0.forwarding=1",
			"ipv4.conf.lan.forwarding=0", "ipv6.conf.all.forwarding=0", "ipv6.conf.other.forwarding=1")
	})
}

// Nothing is turned on while nothing keeps networks apart, or while it cannot be noted.
func TestForwardingStaysOff(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n)
		p, again := r.look(false)
		r.is("without the rule", before...)
		w, off := r.f.warnings(), forwardingOff(p)
		if !again || len(w) != 1 || !strings.Contains(w[0], errUnguarded.Error()) || len(off) != 2 {
			t.Errorf("%v, %q, %q", again, w, off)
		}
		r.must(os.WriteFile(r.o.State, nil, 0o600)) // no folder
		_, again = r.look(true)
		r.is("without a note", before...)
		if w := r.f.warnings(); again || len(w) != 1 || !strings.Contains(w[0], "note how forwarding was found") {
			t.Errorf("%v, %q", again, w)
		}
		r.must(os.Remove(r.o.State))
		_, again = r.look(true)
		r.is("with both", opened...)
		if again || len(r.f.warnings()) > 0 {
			t.Errorf("%v, %q", again, r.f.warnings())
		}
	})
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n)
		r.o.Sysctl = false
		r.restart()
		p, _ := r.look(true)
		r.is("without --sysctl", before...)
		r.closed("without --sysctl", p, "", "")
		if w := forwardingOff(p); len(w) != 2 || !strings.HasSuffix(w[0], "or meshd with --sysctl") {
			t.Errorf("%q", w)
		}
	})
}

// A rule for interfaces' names in the plan follows from values alone.
func TestClosed(t *testing.T) {
	crossing := link.Crossing{
		Pods:  []link.Interface{{Index: 2, Name: "cni0"}},
		Sides: []link.Interface{{Index: 3, Name: "eth0"}},
		Rest:  []link.Interface{{Index: 4, Name: "a"}, {Index: 5, Name: "routed"}, {Index: 6, Name: "deaf"}},
	}
	devices := map[int]bool{2: true, 3: true, 4: false, 5: true}
	for _, test := range []struct {
		name    string
		s       link.Switches
		found   found
		asked   bool
		v6, off bool
		want    []string
	}{
		{"nothing is ours", link.Switches{Devices: devices}, found{}, false, false, false, nil},
		{"about to be", link.Switches{Devices: devices}, found{}, true, false, false, []string{"a", "deaf"}},
		{"of a family that is not carried", link.Switches{Devices: devices}, found{}, true, false, true, nil},
		{"eth0 is ours", link.Switches{Devices: devices}, found{IPv4: []int{2, 3}}, false, false, false,
			[]string{"a", "deaf", "eth0"}},
		{"all is wanted", link.Switches{Devices: devices, All: true}, found{IPv4: []int{2, 3}},
			true, false, false, nil},
		{"IPv6 is ours", link.Switches{Devices: devices, All: true}, found{IPv6: true}, false, true, false,
			[]string{"a", "deaf"}},
		{"IPv6 is not", link.Switches{Devices: devices, All: true}, found{IPv4: []int{3}}, true, true, false, nil},
		{"IPv6 is wanted", link.Switches{Devices: devices, All: true, Default: true}, found{IPv6: true},
			true, true, false, nil},
		{"IPv6 is about to be", link.Switches{Devices: devices}, found{}, true, true, false, []string{"a", "deaf"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := passage{
				crossing: crossing, switches: map[bool]link.Switches{test.v6: test.s},
				found: test.found, asked: test.asked,
			}
			if got := p.closed(test.v6, !test.off); !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
