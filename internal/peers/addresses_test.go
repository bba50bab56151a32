package peers_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/peers"
)

// at returns the address with a number.
func at(n byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 18, n, 3}), 8285)
}

// An address that packets go to is left for one that has answered since, and gone back to once it has been
// well for long.
func TestViaFollowsWhatAnswers(t *testing.T) {
	r := peers.New()
	now := noon
	up := func(n byte) peers.Address {
		return peers.Address{At: at(n), State: peers.Up, Good: noon.Add(-time.Hour), Answered: now}
	}
	silent := func(n byte, ago time.Duration) peers.Address {
		return peers.Address{At: at(n), State: peers.Up, Silent: true, Answered: now.Add(-ago)}
	}
	good := func(n byte, since time.Duration) peers.Address {
		return peers.Address{At: at(n), State: peers.Up, Good: now.Add(-since), Answered: now}
	}
	in := func(n byte, s peers.State) peers.Address { return peers.Address{At: at(n), State: s} }
	old := func(n byte, ago time.Duration) peers.Address {
		return peers.Address{At: at(n), State: peers.Up, Good: noon, Answered: now.Add(-ago)}
	}
	const s = time.Second
	for _, step := range []struct {
		name      string
		addresses []peers.Address
		want      byte // 0: none is named
		news      bool
	}{
		{"at first the first", []peers.Address{in(1, peers.Unknown), up(2)}, 0, true},
		{"it answers", []peers.Address{up(1), up(2)}, 0, false},
		{"both are silent, and the other answers first", []peers.Address{silent(1, 2*s), good(2, 0)}, 0, false},
		{"and the first does not", []peers.Address{silent(1, 3*s), good(2, s)}, 2, true},
		{"both are well for long", []peers.Address{good(1, 40*s), good(2, 40*s)}, 0, true},
		{"it is silent, and the other has not answered since", []peers.Address{silent(1, 2*s), old(2, 5*s)}, 0,
			false},
		{"the other answers", []peers.Address{silent(1, 2*s), up(2)}, 2, true},
		{"the first answers again", []peers.Address{good(1, s), up(2)}, 2, false},
		{"for long", []peers.Address{good(1, 29*s), up(2)}, 2, false},
		{"for long enough", []peers.Address{good(1, 30*s), up(2)}, 0, true},
		{"both are silent", []peers.Address{silent(1, 2*s), silent(2, s)}, 0, false},
		{"down, and a third answers", []peers.Address{in(1, peers.Down), in(2, peers.Down), good(3, s)}, 3, true},
		{"the second answers, and is no better yet", []peers.Address{in(1, peers.Down), good(2, s), up(3)}, 3,
			false},
		{"the second is good for long", []peers.Address{in(1, peers.Down), good(2, 31*s), up(3)}, 2, true},
		{"one way only", []peers.Address{in(1, peers.Down), in(2, peers.OneWay), good(3, s)}, 3, true},
		{"the address goes", []peers.Address{up(1), up(2)}, 0, true},
		{"one is left", nil, 0, false},
	} {
		t.Run(step.name, func(t *testing.T) {
			d, news := r.Report("b", func(f *peers.Facts) {
				f.Asked, f.State, f.Addresses = true, peers.Up, step.addresses
				f.Conclude(now)
			})
			want := netip.AddrPort{}
			if step.want != 0 {
				want = at(step.want)
			}
			if d.Via != want || news != step.news {
				t.Errorf("%s, news %v, want %s, %v", d.Via, news, want, step.news)
			}
			if unsettled := slices.Contains(r.Unsettled(), "b"); want.IsValid() && !unsettled {
				t.Error("time alone changes nothing")
			}
		})
	}
}

// A dead address that packets do not use is worth knowing; one that was up before is a fault.
func TestSpareAddresses(t *testing.T) {
	r := peers.New()
	up, down := peers.Address{At: at(1), State: peers.Up}, peers.Address{At: at(2), State: peers.Down}
	was := peers.Address{At: at(2), State: peers.Up}
	for _, step := range []struct {
		name      string
		addresses []peers.Address
		severity  mesh.Severity
		want      bool
	}{
		{"never up", []peers.Address{up, down}, mesh.Info, true},
		{"up", []peers.Address{up, was}, mesh.Info, false},
		{"was up", []peers.Address{up, down}, mesh.Degraded, true},
	} {
		t.Run(step.name, func(t *testing.T) {
			r.Report("b", func(f *peers.Facts) {
				f.Asked, f.State, f.Addresses = true, peers.Up, step.addresses
				f.Conclude(noon)
			})
			all := r.Of("b").Conditions("b", r.Own(), noon)
			if mesh.Has(all, mesh.AddressSilent) != step.want || mesh.Worst(all) != step.severity {
				t.Errorf("%+v", all)
			}
		})
	}
}

// A shared prefix goes by the first of its carriers that is well, without moving for each flap.
func TestCarrierFollowsWhatIsWell(t *testing.T) {
	prefix := netip.MustParsePrefix("192.168.7.0/24")
	share := mesh.Share{Prefix: prefix, Carriers: []mesh.Carrier{{Peer: "a"}, {Peer: "b"}, {Peer: "c",
		Metric: 9}}}
	now := noon
	r := peers.New()
	r.Share([]mesh.Share{share}, "self")
	in := func(s peers.State, silent bool, drain *mesh.Drain) func(*peers.Facts) {
		return func(f *peers.Facts) {
			f.Asked, f.State, f.Silent, f.Drain = true, s, silent, drain
			f.Conclude(now)
		}
	}
	up, down := in(peers.Up, false, nil), in(peers.Down, false, nil)
	silent, draining := in(peers.Up, true, nil), in(peers.Up, false, &mesh.Drain{})
	for _, step := range []struct {
		name   string
		wait   time.Duration
		update map[string]func(*peers.Facts)
		want   string
	}{
		{"nothing is known", 0, nil, "a"},
		{"another one is up first", 0, map[string]func(*peers.Facts){"b": up, "c": up}, "a"},
		{"it is up", 0, map[string]func(*peers.Facts){"a": up}, "a"},
		{"it is silent", 0, map[string]func(*peers.Facts){"a": silent}, "b"},
		{"it answers again", time.Second, map[string]func(*peers.Facts){"a": up}, "b"},
		{"it flaps", 20 * time.Second, map[string]func(*peers.Facts){"a": silent}, "b"},
		{"it answers", 0, map[string]func(*peers.Facts){"a": up}, "b"},
		{"not for long", 29 * time.Second, nil, "b"},
		{"for long", time.Second, nil, "a"},
		{"it drains", 0, map[string]func(*peers.Facts){"a": draining}, "b"},
		{"both drain", 0, map[string]func(*peers.Facts){"b": draining}, "c"},
		{"all that are up drain", 0, map[string]func(*peers.Facts){"c": down}, "a"},
		{"nobody is up", 0, map[string]func(*peers.Facts){"a": down, "b": down}, "a"},
		{"one comes up", 0, map[string]func(*peers.Facts){"c": up}, "c"},
	} {
		t.Run(step.name, func(t *testing.T) {
			now = now.Add(step.wait)
			for peer, update := range step.update {
				r.Report(peer, update)
			}
			before := r.Carriers()[prefix]
			moves := r.Carry(now)
			if got := r.Carriers()[prefix]; got != step.want || (len(moves) > 0) != (got != before) {
				t.Errorf("%s, %+v, want %s", got, moves, step.want)
			}
			if more := r.Carry(now); len(more) > 0 {
				t.Errorf("moves on: %+v", more)
			}
		})
	}
	t.Run("another file", func(t *testing.T) {
		share.Carriers = share.Carriers[1:]
		r.Share([]mesh.Share{share}, "self")
		if got := r.Carriers()[prefix]; got != "c" {
			t.Errorf("%s, though it stays", got)
		}
		share.Carriers = []mesh.Carrier{{Peer: "b"}, {Peer: "self"}}
		r.Share([]mesh.Share{share}, "self")
		if got := r.Carriers()[prefix]; got != "self" || len(r.Carry(now)) > 0 {
			t.Errorf("%s, though this node has it", got)
		}
		r.Share(nil, "self")
		if len(r.Carriers()) > 0 {
			t.Error("the prefix is kept")
		}
	})
}

// What a node in maintenance does is no fault, until its time is over.
func TestMaintenanceIsNoFault(t *testing.T) {
	r := peers.New()
	drain := &mesh.Drain{Since: noon, Until: noon.Add(time.Hour), By: "ada", Reason: "new disk"}
	for _, test := range []struct {
		name     string
		state    peers.State
		drain    *mesh.Drain
		later    time.Duration
		want     mesh.Kind
		severity mesh.Severity
	}{
		{"up", peers.Up, drain, 0, mesh.PeerDrains, mesh.Info},
		{"stale", peers.Stale, drain, 0, mesh.PeerDrains, mesh.Info},
		{"with loss", peers.Up, drain, 0, mesh.PeerLoss, mesh.Info},
		{"down", peers.Down, drain, 0, mesh.PeerMaintained, mesh.Info},
		{"silent", peers.Silent, drain, 0, mesh.PeerMaintained, mesh.Info},
		{"down, without an end", peers.Down, &mesh.Drain{}, time.Hour, mesh.PeerMaintained, mesh.Info},
		{"down for too long", peers.Down, drain, time.Hour, mesh.PeerDown, mesh.Failed},
		{"down without a word", peers.Down, nil, 0, mesh.PeerDown, mesh.Failed},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.Report("b", func(f *peers.Facts) {
				f.Asked, f.State, f.Drain = true, test.state, test.drain
				f.Recent = peers.Loss{Probes: 30, Lost: 15, Runs: 9} // failed, of a peer in service
			})
			all := r.Of("b").Conditions("b", r.Own(), noon.Add(test.later))
			if mesh.Worst(all) != test.severity || test.want != "" && !mesh.Has(all, test.want) {
				t.Errorf("%+v", all)
			}
		})
	}
}
