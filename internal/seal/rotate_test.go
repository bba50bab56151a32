package seal

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/nstest"
	"example.org/meshd/internal/wireguard"
)

// The prefixes of a peer belong to the key with the later handshake, forth and back.
func TestInUse(t *testing.T) {
	one, two, three := mesh.Key{1}, mesh.Key{2}, mesh.Key{3}
	at := func(seconds int64) time.Time { return time.Unix(1e9+seconds, 0) }
	var none time.Time
	for _, test := range []struct {
		name        string
		key, next   mesh.Key
		first, then time.Time // handshakes with one and two
		before      mesh.Key
		want        mesh.Key
	}{
		{"no next key", one, mesh.Key{}, at(1), at(2), one, one},
		{"nobody has spoken", one, two, none, none, mesh.Key{}, one},
		{"with the first key", one, two, at(1), none, one, one},
		{"with the next key alone", one, two, none, at(1), one, two},
		{"with the next key, later", one, two, at(1), at(2), one, two},
		{"back", one, two, at(3), at(2), two, one},
		{"sessions are gone", one, two, none, none, two, two},
		{"sessions are gone, before the change", one, two, none, none, one, one},
		{"the new key is the key", two, mesh.Key{}, at(1), at(2), two, two},
		{"the new key is the key, and was not used", two, mesh.Key{}, at(1), none, one, two},
		{"another rotation", two, three, at(1), at(2), two, two},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := wireguard.State{Peers: map[mesh.Key]wireguard.PeerState{one: {Handshake: test.first},
				two: {Handshake: test.then}}}
			if got := inUse(&mesh.Peer{Key: test.key, Next: test.next}, s, test.before); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// A peer with two keys is two peers of the interface, and all prefixes belong to the key in use. The other
// one is called where somebody insists.
func TestPeersOfRotation(t *testing.T) {
	calls := func(p *Peer) (netip.AddrPort, bool) { return p.Endpoints[0], true }
	for _, test := range []struct {
		used    mesh.Key
		insists func(*Peer) bool
		want    time.Duration // keepalive
	}{
		{mesh.Key{2}, patient, 0},
		{mesh.Key{4}, patient, 0},
		{mesh.Key{2}, func(p *Peer) bool { return p.Name == "hub" }, insistent},
	} {
		w := three()
		w.Peers[0].Next = mesh.Key{4}
		got := w.peersOf(learned{}, map[string]mesh.Key{"hub": test.used}, calls, test.insists)
		if len(got) != 2 || got[0].Key != test.used || got[1].Key != (mesh.Key{6 - test.used[0]}) {
			t.Fatalf("%+v", got)
		}
		if len(got[0].Allowed) != 5 || len(got[1].Allowed) != 0 || got[1].Keepalive != test.want ||
			got[1].Endpoint != got[0].Endpoint || !got[1].Call {
			t.Errorf("%+v", got)
		}
	}
}

// The next look for another key is soon in a small mesh, however busy the host is, and rare in a large one.
func TestTurnRest(t *testing.T) {
	for _, test := range []struct {
		peers int
		took  time.Duration
		want  time.Duration
	}{
		{2, time.Millisecond, turnEvery + 200*time.Microsecond},
		{2, 40 * time.Millisecond, turnEvery + 200*time.Microsecond},
		{1000, 15 * time.Millisecond, 150 * time.Millisecond},
		{10000, 100 * time.Millisecond, 1050 * time.Millisecond},
		{2, time.Second, time.Second}, // half of the time at most
	} {
		if got := turnRest(test.peers, test.took); got != test.want {
			t.Errorf("%d peers, %v: %v, want %v", test.peers, test.took, got, test.want)
		}
	}
}

// Two nodes that change their keys at once would call each other by keys that neither has any more.
func TestInsists(t *testing.T) {
	first, next := wireguard.PrivateOf([32]byte{8}), wireguard.PrivateOf([32]byte{16})
	now := time.Unix(1e9, 0)
	young := wireguard.PeerState{Handshake: now.Add(-unanswered)}
	for _, test := range []struct {
		name    string
		listed  mesh.Key // next_public_key of this node
		private wireguard.Private
		fails   bool
		is      wireguard.PeerState
		want    bool
	}{
		{"the peer changes its key alone", mesh.Key{}, first, false, young, false},
		{"this node will, too", next.Public(), first, false, young, false},
		{"this node has", next.Public(), next, false, young, true},
		{"the peer does not answer", mesh.Key{}, first, true, young, true},
		{"the key in use got no answer", mesh.Key{}, first, false, wireguard.PeerState{Handshake: now.Add(
			-unanswered - 1)}, true},
		{"it was never used", mesh.Key{}, first, false, wireguard.PeerState{}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := newKeeper(Options{Fails: func(string) bool { return test.fails }})
			k.wanted, k.private = three(), test.private
			k.wanted.Self.Key, k.wanted.Self.Next = first.Public(), test.listed
			if got := k.insists(&k.wanted.Peers[0], test.is, now); got != test.want {
				t.Error(got)
			}
		})
	}
}

// A node that changes its key speaks first, also to peers whose address it does not know from the file.
func TestSpeaksFirst(t *testing.T) {
	nowhere := func(*Peer) (netip.AddrPort, bool) { return netip.AddrPort{}, false }
	w := three()
	used := map[string]mesh.Key{"hub": {2}}
	if got := w.peersOf(learned{}, used, nowhere, patient); got[0].Keepalive != 0 {
		t.Errorf("%+v", got)
	}
	w.Self.Next = mesh.Key{9}
	if got := w.peersOf(learned{}, used, nowhere, patient); got[0].Keepalive != w.Keepalive {
		t.Errorf("%+v", got)
	}
}

// The key of the file is taken if the mesh knows it. Else the one in force stays, if there is one.
func TestKeyInForce(t *testing.T) {
	first, next, foreign := wireguard.PrivateOf([32]byte{8}), wireguard.PrivateOf([32]byte{16}),
		wireguard.PrivateOf([32]byte{24})
	gone := errors.New("gone")
	both := &Wanted{Self: mesh.Peer{Key: first.Public(), Next: next.Public()}}
	after := &Wanted{Self: mesh.Peer{Key: next.Public()}}
	for _, test := range []struct {
		name    string
		inForce wireguard.Private
		w       *Wanted
		file    wireguard.Private
		err     error
		want    wireguard.Private // the zero value: an error
		event   bool
	}{
		{"first start", wireguard.Private{}, both, first, nil, first, false},
		{"start with the next key", wireguard.Private{}, both, next, nil, next, false},
		{"no key", wireguard.Private{}, both, first, gone, wireguard.Private{}, false},
		{"a key that is not listed", wireguard.Private{}, both, foreign, nil, wireguard.Private{}, false},
		{"as before", first, both, first, nil, first, false},
		{"taken", first, both, next, nil, next, true},
		{"back", next, both, first, nil, first, true},
		{"a foreign key appears", first, both, foreign, nil, first, false},
		{"the file is gone", first, both, first, gone, first, false},
		{"done", next, after, next, nil, next, false},
		{"done, and not taken", first, after, first, nil, wireguard.Private{}, false},
		{"done, and the file is gone", first, after, first, gone, wireguard.Private{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			events := &nstest.Events{}
			k := newKeeper(Options{Log: slog.New(events),
				Key: func(context.Context, string) (wireguard.Private, error) { return test.file, test.err }})
			k.private = test.inForce
			got, err := k.key(t.Context(), test.w)
			if got != test.want || (err == nil) != test.want.IsValid() {
				t.Errorf("another key, or %v", err)
			}
			if told := events.Take(); len(told) > 0 != test.event {
				t.Errorf("events %q", told)
			}
		})
	}
}

// A change of a peer's key is news once, is told of, and says that the peer was heard.
func TestTurned(t *testing.T) {
	events := &nstest.Events{}
	k := newKeeper(Options{Log: slog.New(events)})
	k.wanted = three()
	k.wanted.Peers[0].Next = mesh.Key{4}
	at := time.Unix(1e9, 0)
	state := wireguard.State{Peers: map[mesh.Key]wireguard.PeerState{
		{2}: {Handshake: at, Received: 900}, {4}: {}}}
	k.use(k.wanted.used(state, k.using))
	k.tell(state, at)
	if told := events.Take(); len(told) > 0 || k.turned(state) || !k.wanted.turning() {
		t.Errorf("at the beginning: events %q", told)
	}
	state.Peers[mesh.Key{4}] = wireguard.PeerState{Handshake: at.Add(time.Second), Received: 148}
	if !k.turned(state) {
		t.Error("the other key is not seen")
	}
	k.use(k.wanted.used(state, k.using))
	if told := events.Take(); len(told) != 1 || told[0] != "key_rotated" || k.turned(state) {
		t.Errorf("events %q", told)
	}
	k.tell(state, at.Add(2*time.Second))
	hub := k.Told().Peers["hub"]
	if hub.Public != (mesh.Key{4}) || hub.Next != (mesh.Key{4}) || !hub.heard.Equal(at.Add(2*time.Second)) ||
		hub.Received != 148 {
		t.Errorf("%+v", hub)
	}
}
