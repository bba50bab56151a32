package forwarding

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.org/meshd/internal/dataplane/tun"
	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
)

// A router is a node in a namespace: eth0 is its underlay, cni0 has pods, lan is a network behind
// it, and other is a network that has nothing to do with the mesh.
type router struct {
	*testing.T
	n      *nstest.Namespace
	node   Node
	folder string // of the note
	asked  bool   // --sysctl
	f      *Switcher
}

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func newRouter(t *testing.T, n *nstest.Namespace, settings ...string) *router {
	r := &router{T: t, n: n, folder: filepath.Join(t.TempDir(), "state"), asked: true, node: Node{
		TUN: "mesh0", Networks: prefixes("10.244.0.0/16", "fd00::/48"),
		Subnets: prefixes("10.244.1.0/24", "10.244.0.0/24", "fd00:0:0:1::/64"), Routes: prefixes("192.168.1.0/24"),
	}}
	r.set(append([]string{"ipv4.ip_forward=0", "ipv6.conf.all.forwarding=0"}, settings...)...)
	for name, address := range map[string]string{
		"eth0": "172.18.0.2/16", "cni0": "10.244.1.1/24", "lan": "192.168.1.1/24", "other": "192.168.9.1/24",
	} {
		r.add(name, address)
	}
	r.node.Underlay = []int{link.Index("eth0")}
	r.must(tun.Create("mesh0"))
	r.restart()
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
func (r *router) look(guarded bool) (h Host, again bool) {
	r.Helper()
	h, err := Look(r.node, r.folder, r.asked)
	r.must(err)
	return h, r.f.Follow(h, guarded)
}

// closed compares what must stay apart.
func (r *router) closed(when string, h Host, v4, v6 string) {
	r.Helper()
	for family, want := range map[bool]string{false: v4, true: v6} {
		if got := strings.Join(h.Closed()[family], " "); got != want {
			r.Errorf("%s: closed for IPv6 %v: %q, want %q", when, family, got, want)
		}
	}
}

// off compares of what a host says that it is not forwarded. Where only packets from outside the mesh
// are not, pods still reach other hosts.
func (r *router) off(when string, h Host, subjects ...string) (all []mesh.Condition) {
	r.Helper()
	all = h.Conditions()
	var got []string
	for _, c := range all {
		got = append(got, c.Subject)
		kind, severity := mesh.ForwardingOff, mesh.Failed
		if c.Subject == "eth0" || c.Subject == "eth0, lan" {
			kind, severity = mesh.OutsideOff, mesh.Degraded
		}
		if c.Kind != kind || c.Severity != severity || c.Cause == "" || c.Remedy == "" {
			r.Errorf("%s: %+v", when, c)
		}
	}
	if !slices.Equal(got, subjects) {
		r.Errorf("%s: off are %q, want %q", when, got, subjects)
	}
	return all
}

// stays tells whether something keeps the Switcher from turning forwarding on.
func (r *router) stays(when string, want bool) {
	r.Helper()
	switch got := r.f.Conditions(); {
	case len(got) > 0 != want:
		r.Errorf("%s: %+v", when, got)
	case want && (len(got) != 1 || got[0].Kind != mesh.ForwardingFailed || got[0].Cause == ""):
		r.Errorf("%s: %+v", when, got)
	}
}

// restart is another run of meshd.
func (r *router) restart() { r.f = New(r.folder, r.asked, slog.New(slog.DiscardHandler)) }

func (r *router) restore(words ...string) {
	r.Helper()
	did, err := Restore(r.folder)
	if err != nil || len(did) != len(words) {
		r.Errorf("restored %q, %v, want %q", did, err, words)
	}
	for _, w := range words {
		if !strings.Contains(strings.Join(did, "\n"), w) {
			r.Errorf("restored %q, without %q", did, w)
		}
	}
	if _, err := os.Stat(r.folder); !errors.Is(err, os.ErrNotExist) {
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
		h, again := r.look(true)
		r.stays("at first", false)
		r.off("at first", h)
		if again {
			t.Error("it wants to be called again")
		}
		r.is("turned on", opened...)
		r.closed("before forwarding is on", h, "eth0 lan other", "eth0 lan other")
		h, _ = r.look(true)
		r.closed("afterwards", h, "eth0 lan other", "eth0 lan other")

		// A second bridge of pods, and a network that comes later.
		r.add("cni1", "10.244.0.1/24")
		r.add("late", "192.168.10.1/24")
		h, _ = r.look(true)
		r.is("later", "ipv4.conf.cni1.forwarding=1", "ipv4.conf.late.forwarding=0", "ipv4.ip_forward=0")
		r.closed("later", h, "eth0 lan late other", "eth0 lan late other")

		// The TUN is made anew.
		r.must(n.IP("link del mesh0"))
		r.must(tun.Create("mesh0"))
		r.look(true)
		r.is("with another TUN", opened...)
		// A host whose pods come and go for years does not remember all of their interfaces.
		for i := range 20 {
			r.must(n.IP("link del mesh0"))
			r.must(tun.Create("mesh0"))
			r.add(fmt.Sprint("pod", i), "10.244.1.9/32")
			r.look(true)
			r.must(n.IP(fmt.Sprint("link del pod", i)))
		}
		r.look(true)
		if len(r.f.seen) != 5 || len(r.f.routers) != 1 {
			t.Errorf("remembered: %v, as router %v", r.f.seen, r.f.routers)
		}
		r.is("with the last TUN", opened...)

		// Another run in this boot does not take it for what was found.
		r.restart()
		h, _ = r.look(true)
		r.closed("another run", h, "eth0 lan late other", "eth0 lan late other")
		r.asked = false
		r.restart()
		h, _ = r.look(true)
		r.is("a run without --sysctl", opened...)
		r.closed("a run without --sysctl", h, "eth0 lan late other", "eth0 lan late other")

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
			h, _ := r.look(true)
			r.is("turned off", "ipv4.conf.eth0.forwarding=0", "ipv4.conf.mesh0.forwarding=1",
				"ipv6.conf.all.forwarding=0", "ipv6.conf.mesh0.forwarding=0")
			all := r.off("turned off", h, "eth0", "IPv6")
			for i, command := range []string{"net.ipv4.conf.eth0.forwarding=1", "net.ipv6.conf.all.forwarding=1"} {
				if len(all) == 2 && !strings.Contains(all[i].Remedy, command) {
					t.Errorf("%+v does not name %s", all[i], command)
				}
			}
		}
		// Turned on by somebody else it is no longer ours.
		r.set("ipv4.conf.eth0.forwarding=1", "ipv6.conf.all.forwarding=1")
		h, _ := r.look(true)
		r.closed("turned on by another", h, "lan other", "")
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

// For IPv4 the switch of the interface by which packets come in decides.
func TestForwardingIsAskedOfEachInterface(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n)
		r.asked = false
		r.restart()
		for _, test := range []struct {
			name, off string // interfaces whose switch is off
			all       string // net.ipv4.ip_forward
			subjects  []string
		}{
			{"none", "", "1", nil},
			{"the TUN", "mesh0", "1", []string{"mesh0"}},
			{"pods", "cni0", "1", []string{"cni0"}},
			{"pods and the TUN", "cni0 mesh0", "1", []string{"cni0, mesh0"}},
			{"the outside", "eth0 lan", "1", []string{"eth0, lan"}},
			{"pods and the outside", "cni0 eth0", "1", []string{"cni0", "eth0"}},
			{"what has no part in the mesh", "other", "1", nil},
			{"each one, the global switch on", "cni0 mesh0 eth0 lan", "1", []string{"cni0, mesh0", "eth0, lan"}},
			{"the host", "", "0", []string{"IPv4"}},
		} {
			r.must(n.Do(func() error {
				r.set("ipv6.conf.all.forwarding=1", "ipv4.ip_forward=0", "ipv4.ip_forward="+test.all)
				for _, name := range strings.Fields(test.off) {
					r.set("ipv4.conf." + name + ".forwarding=0")
				}
				h, _ := r.look(true)
				r.off(test.name, h, test.subjects...)
				return nil
			}))
		}
	})
}

// Whoever turns the global switch wants everything to be forwarded.
func TestForwardingThatOthersTurnOn(t *testing.T) {
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n)
		r.look(true)
		r.set("ipv4.ip_forward=1", "ipv6.conf.default.forwarding=1") // as Docker does
		h, _ := r.look(true)
		r.closed("Docker", h, "", "")
		r.restore()
		r.is("Docker", "ipv4.ip_forward=1", "ipv4.conf.eth0.forwarding=1", "ipv6.conf.all.forwarding=1")
		r.set("ipv4.ip_forward=0")
		r.add("cni1", "10.244.0.1/24")
		h, _ = r.look(true)
		r.is("turned off by another", "ipv4.conf.cni1.forwarding=0", "ipv4.conf.eth0.forwarding=0")
		r.off("turned off by another", h, "IPv4")
	})
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n, "ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1")
		r.set("ipv4.conf.other.forwarding=0")
		h, _ := r.look(true)
		r.closed("on at the start", h, "", "")
		r.off("on at the start", h)
		r.restore() // nothing, not even a folder
		r.is("on at the start", "ipv4.ip_forward=1", "ipv4.conf.other.forwarding=0", "ipv6.conf.all.forwarding=1")
	})
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n)
		r.set("ipv4.conf.other.forwarding=1", "ipv4.conf.eth0.forwarding=1", "ipv6.conf.other.forwarding=1")
		h, _ := r.look(true)
		r.closed("interfaces that others turned on", h, "lan", "eth0 lan")
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
		h, again := r.look(false)
		r.is("without the rule", before...)
		r.off("without the rule", h, "IPv4", "IPv6")
		r.stays("without the rule", true)
		if cs := r.f.Conditions(); !again || cs[0].Cause != errUnguarded.Error() {
			t.Errorf("%v, %+v", again, cs)
		}
		r.must(os.WriteFile(r.folder, nil, 0o600)) // no folder
		_, again = r.look(true)
		r.is("without a note", before...)
		r.stays("without a note", true)
		if again {
			t.Error("the rule is there, but it wants to be called again")
		}
		r.must(os.Remove(r.folder))
		_, again = r.look(true)
		r.is("with both", opened...)
		r.stays("with both", false)
		if again {
			t.Error("it wants to be called again")
		}
	})
	nstest.Inside(t, func(t *testing.T, n *nstest.Namespace) {
		r := newRouter(t, n)
		r.asked = false
		r.restart()
		h, _ := r.look(true)
		r.is("without --sysctl", before...)
		r.closed("without --sysctl", h, "", "")
		r.off("without --sysctl", h, "IPv4", "IPv6")
		r.stays("without --sysctl", false)
	})
}

// What is closed follows from values alone.
func TestClosed(t *testing.T) {
	crossing := link.Crossing{
		Pods:  []link.Interface{{Index: 2, Name: "cni0"}},
		Sides: []link.Interface{{Index: 3, Name: "eth0"}},
		Rest:  []link.Interface{{Index: 4, Name: "a"}, {Index: 5, Name: "routed"}, {Index: 6, Name: "deaf"}},
	}
	const v4, v6 = "10.244.0.0/16", "fd00::/48"
	devices := map[int]bool{2: true, 3: true, 4: false, 5: true}
	for _, test := range []struct {
		name    string
		s       link.Switches
		found   found
		asked   bool
		v6      bool
		network string // of the mesh
		want    []string
	}{
		{"nothing is ours", link.Switches{Devices: devices}, found{}, false, false, v4, nil},
		{"about to be", link.Switches{Devices: devices}, found{}, true, false, v4, []string{"a", "deaf"}},
		{"of a family that is not carried", link.Switches{Devices: devices}, found{}, true, false, v6, nil},
		{"eth0 is ours", link.Switches{Devices: devices}, found{IPv4: []int{2, 3}}, false, false, v4,
			[]string{"a", "deaf", "eth0"}},
		{"all is wanted", link.Switches{Devices: devices, All: true}, found{IPv4: []int{2, 3}},
			true, false, v4, nil},
		{"IPv6 is ours", link.Switches{Devices: devices, All: true}, found{IPv6: true}, false, true, v6,
			[]string{"a", "deaf"}},
		{"IPv6 is not", link.Switches{Devices: devices, All: true}, found{IPv4: []int{3}}, true, true, v6, nil},
		{"IPv6 is wanted", link.Switches{Devices: devices, All: true, Default: true}, found{IPv6: true},
			true, true, v6, nil},
		{"IPv6 is about to be", link.Switches{Devices: devices}, found{}, true, true, v6, []string{"a", "deaf"}},
		{"IPv6 is not carried", link.Switches{Devices: devices}, found{}, true, true, v4, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := Host{
				Node: Node{Networks: prefixes(test.network)}, Crossing: crossing,
				switches: map[bool]link.Switches{test.v6: test.s}, found: test.found, asked: test.asked,
			}
			if got := h.Closed()[test.v6]; !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// What somebody else has turned since is no longer on because of meshd.
func TestStill(t *testing.T) {
	both := found{Where: "here", IPv4: []int{3, 4}, IPv6: true}
	on := map[int]bool{3: true, 4: true}
	for _, test := range []struct {
		name   string
		v4, v6 link.Switches
		want   found
	}{
		{"nothing changed", link.Switches{Devices: on}, link.Switches{All: true}, both},
		{"one is off", link.Switches{Devices: map[int]bool{3: false, 4: true}}, link.Switches{All: true},
			found{Where: "here", IPv4: []int{4}, IPv6: true}},
		{"one is gone", link.Switches{Devices: map[int]bool{3: true}}, link.Switches{All: true},
			found{Where: "here", IPv4: []int{3}, IPv6: true}},
		{"IPv6 is off", link.Switches{Devices: on}, link.Switches{}, found{Where: "here", IPv4: []int{3, 4}}},
		{"somebody wants all of IPv4", link.Switches{Devices: on, All: true}, link.Switches{All: true},
			found{Where: "here", IPv6: true}},
		{"somebody wants all of IPv6", link.Switches{Devices: on}, link.Switches{All: true, Default: true},
			found{Where: "here", IPv4: []int{3, 4}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := both.still(map[bool]link.Switches{false: test.v4, true: test.v6})
			if !got.same(test.want) {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}
