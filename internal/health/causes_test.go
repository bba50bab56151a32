package health_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"example.org/meshd/internal/health"
	"example.org/meshd/internal/mesh"
)

// four peers: a and b are neighbours over IPv4, c is elsewhere, d has an IPv6 address. b and c run a
// newer meshd, c and d another file.
func four() []health.Peer {
	at := netip.MustParseAddrPort
	return []health.Peer{
		{Name: "a", Underlay: at("172.18.0.2:8285"), Version: "1", File: "one", Met: true},
		{Name: "b", Underlay: at("172.18.0.3:8285"), Version: "2", File: "one", Met: true},
		{Name: "c", Underlay: at("172.19.0.4:8286"), Version: "2", File: "two", Met: true},
		{Name: "d", Underlay: at("[2001:db8::5]:8285"), Version: "1", File: "two", Met: true},
	}
}

// down returns conditions about peers that do not answer.
func down(names ...string) (all []mesh.Condition) {
	for _, name := range names {
		all = append(all, mesh.Condition{Kind: mesh.PeerDown, Severity: mesh.Failed, Peer: name})
	}
	return all
}

// What peers in trouble, and no others, have in common is named in their place.
func TestCausesFindWhatPeersShare(t *testing.T) {
	for _, test := range []struct {
		name  string
		down  []string
		group string // empty: each peer by itself
	}{
		{"one of all", []string{"a"}, ""},
		{"all", []string{"a", "b", "c", "d"}, "all 4 peers"},
		{"a family", []string{"a", "b", "c"}, "all 3 peers over IPv4"},
		{"a network", []string{"b", "a"}, "all 2 peers in 172.18.0.0/24"},
		{"a version", []string{"b", "c"}, "all 2 peers with meshd 2"},
		{"a file", []string{"c", "d"}, "all 2 peers with the file two"},
		{"nothing", []string{"a", "c"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := health.Causes(down(test.down...), four())
			if test.group == "" {
				if !slices.Equal(got, down(test.down...)) {
					t.Errorf("%+v", got)
				}
				return
			}
			if len(got) != 1 || got[0].Group != test.group || got[0].Peer != "" || got[0].Severity != mesh.Failed ||
				got[0].Remedy == "" {
				t.Errorf("%+v, want one about %s", got, test.group)
			}
		})
	}
}

// A peer in maintenance neither is evidence that the trouble is here, nor speaks against it.
func TestCausesWithoutThoseInMaintenance(t *testing.T) {
	peers := four()
	peers[3].Maintained = true
	loss := mesh.Condition{Kind: mesh.PeerLoss, Severity: mesh.Info, Peer: "d"}
	about := func(kind mesh.Kind, names ...string) (all []mesh.Condition) {
		for _, name := range names {
			all = append(all, mesh.Condition{Kind: kind, Severity: mesh.Info, Peer: name})
		}
		return all
	}
	for _, test := range []struct {
		name  string
		in    []mesh.Condition
		group string // of the only condition; empty: each by itself
	}{
		{"all others", down("a", "b", "c"), "all 3 peers that are not in maintenance"},
		{"a network", down("a", "b"), "all 2 peers in 172.18.0.0/24"},
		{"the only other one", append(down("a"), loss), ""},
		{"of one kind, and one in maintenance", append(about(mesh.PeerLoss, "c"), loss), ""},
		{"maintenance itself", about(mesh.PeerMaintained, "a", "b", "c", "d"), "all 4 peers"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := health.Causes(test.in, peers)
			if test.group == "" && len(got) == len(test.in) &&
				!slices.ContainsFunc(got, func(c mesh.Condition) bool { return c.Group != "" }) {
				return
			}
			if len(got) != 1 || got[0].Group != test.group {
				t.Errorf("%+v, want %q", got, test.group)
			}
		})
	}
}

// Each kind of trouble has a cause of its own, and what is about this node stays as it is.
func TestCausesKeepTheRest(t *testing.T) {
	ours := mesh.Condition{Kind: mesh.ForwardingOff, Severity: mesh.Failed}
	stranger := mesh.Condition{Kind: mesh.PeerDown, Severity: mesh.Failed, Peer: "has just left"}
	drift := mesh.Condition{Kind: mesh.FileDiffers, Severity: mesh.Degraded, Peer: "a"}
	in := append(down("a", "b", "c", "d"), ours, stranger, drift)
	got := health.Causes(in, four())
	if len(got) != 4 || got[0] != ours || got[1] != stranger || got[2].Group != "all 4 peers" ||
		got[3] != drift {
		t.Errorf("%+v", got)
	}
}

// Thousands of peers without anything in common are one condition with a number and some names.
func TestCausesCount(t *testing.T) {
	var peers []health.Peer
	var names []string
	for i := range 1000 {
		name := fmt.Sprint("edge-", i)
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i / 250), byte(i % 250), 1}), 8285)
		peers = append(peers, health.Peer{Name: name, Underlay: at, Met: true})
		if i%2 == 0 {
			names = append(names, name)
		}
	}
	got := health.Causes(down(names...), peers)
	if len(got) != 1 || got[0].Group != "500 of 1000 peers" || got[0].Peer != "" || len(got[0].Cause) > 200 {
		t.Errorf("%+v", got)
	}
	if got := health.Causes(down(names[:8]...), peers); len(got) != 8 {
		t.Errorf("%d conditions for eight peers", len(got))
	}
}

// Where a peer's own host reports that meshd does not run there, the peer's silence is not reported as well.
// A report from another address, or about another peer, explains nothing.
func TestCausesFoldSilenceIntoItsReason(t *testing.T) {
	silent := mesh.Condition{Kind: mesh.PeerSilent, Severity: mesh.Degraded, Peer: "b"}
	closed := func(peer, by string) mesh.Condition {
		return mesh.Condition{Kind: mesh.PeerPortClosed, Severity: mesh.Degraded, Peer: peer, Subject: by}
	}
	for _, test := range []struct {
		name   string
		closed mesh.Condition
		folds  bool
	}{
		{"its host says so", closed("b", "172.18.0.3"), true},
		{"a router says so", closed("b", "172.18.0.1"), false},
		{"another peer's host says so", closed("a", "172.18.0.2"), false},
		{"nobody knows who says so", closed("b", "a router"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := []mesh.Condition{test.closed, silent}
			want := slices.Clone(in)
			if test.folds {
				want = want[:1]
			}
			// The same kind comes from the registry after those of troubles, and before them elsewhere.
			if got := health.Causes(in, four()); !slices.Equal(got, want) {
				t.Errorf("%+v, want %+v", got, want)
			}
			slices.Reverse(in)
			if got := health.Causes(in, four()); len(got) != len(want) || !slices.Contains(got, test.closed) {
				t.Errorf("reversed: %+v, want %+v", got, want)
			}
		})
	}
}

// Remedies that name a peer each are one for all of them.
func TestCausesKeepARemedy(t *testing.T) {
	var in []mesh.Condition
	for _, name := range []string{"a", "b", "c", "d"} {
		in = append(in, mesh.Condition{Kind: mesh.PeerPortClosed, Severity: mesh.Degraded, Peer: name,
			Remedy: "start meshd on " + name})
	}
	if got := health.Causes(in, four()); len(got) != 1 || got[0].Group != "all 4 peers" || got[0].Remedy == "" {
		t.Errorf("%+v", got)
	}
}

// A peer with two subjects of one kind is one peer.
func TestCausesCountPeersOnce(t *testing.T) {
	two := down("a", "a")
	two[0].Subject, two[1].Subject = "1472 bytes", "DSCP 46"
	if got := health.Causes(two, four()); !slices.Equal(got, two) {
		t.Errorf("%+v", got)
	}
	if got := health.Causes(two, four()[:1]); !slices.Equal(got, two) {
		t.Errorf("the only peer: %+v", got)
	}
}

// The first node of a mesh that starts has failed at nothing.
func TestCausesOfANodeThatMetNoPeer(t *testing.T) {
	peers := four()
	for i := range peers {
		peers[i].Met = false
	}
	got := health.Causes(down("a", "b", "c", "d"), peers)
	if len(got) != 1 || got[0].Severity != mesh.Degraded {
		t.Errorf("%+v", got)
	}
	peers[2].Met = true
	if got := health.Causes(down("a", "b", "c", "d"), peers); len(got) != 1 || got[0].Severity != mesh.Failed {
		t.Errorf("after one was met: %+v", got)
	}
}

// What differs from peer to peer is not said of the group.
func TestCausesLeaveOutWhatDiffers(t *testing.T) {
	in := down("a", "b", "c", "d")
	for i := range in {
		in[i].Kind, in[i].Cause, in[i].Remedy, in[i].Subject = "other", "same", "same", fmt.Sprint(i)
	}
	in[1].Severity = mesh.Info
	got := health.Causes(in, four())
	want := mesh.Condition{Kind: "other", Severity: mesh.Failed, Group: "all 4 peers", Cause: "same",
		Remedy: "same"}
	if len(got) != 1 || got[0] != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
