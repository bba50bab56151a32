package seal

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/meshd/internal/link"
	"example.org/meshd/internal/mesh"
	"example.org/meshd/internal/wireguard"
)

// What a reading of the interface tells of peers: when they were heard, where they are, and who does not
// answer.
func TestTell(t *testing.T) {
	k := newKeeper(Options{})
	k.wanted, k.using = three(), map[string]mesh.Key{"hub": {2}}
	hub, begin := mesh.Key{2}, time.Now().Add(-10*time.Minute)
	read := func(after time.Duration, received, sent uint64, endpoint string, handshake time.Time) PeerTold {
		is := wireguard.PeerState{Endpoint: netip.MustParseAddrPort(endpoint), Handshake: handshake,
			Received: received, Sent: sent}
		k.tell(wireguard.State{Public: mesh.Key{1}, Port: 51820, User: true,
			Peers: map[mesh.Key]wireguard.PeerState{hub: is}}, begin.Add(after))
		return k.Told().Peers["hub"]
	}
	if p := read(0, 100, 100, "192.0.2.2:51820", begin); p.Roamed || !p.heard.IsZero() {
		t.Errorf("the first reading: %+v", p)
	}
	if p := read(time.Second, 200, 100, "192.0.2.2:51820", begin); !p.heard.Equal(begin.Add(time.Second)) {
		t.Errorf("it was heard: %+v", p)
	}
	if got := k.heard("hub"); !got.Equal(begin.Add(time.Second)) {
		t.Errorf("heard at %v", got)
	}
	if p := read(2*time.Second, 300, 200, "203.0.113.9:7", begin); !p.Roamed {
		t.Errorf("it has roamed: %+v", p)
	}
	if told := k.Told(); told.Implementation != "user" || told.Peers["edge"].Relay != "hub" {
		t.Errorf("told %+v", told)
	}
	kinds := func() (all []mesh.Kind) {
		for _, c := range k.conditions() {
			all = append(all, c.Kind)
		}
		return all
	}
	if got := fmt.Sprint(kinds()); got != "[wireguard_user]" {
		t.Errorf("conditions %s", got)
	}
	read(3*time.Second, 300, 300, "203.0.113.9:7", begin)
	if got := fmt.Sprint(kinds()); got != "[wireguard_user no_handshake]" {
		t.Errorf("nothing came for minutes: conditions %s", got)
	}
	read(4*time.Second, 400, 300, "203.0.113.9:7", begin)
	if got := fmt.Sprint(kinds()); got != "[wireguard_user]" {
		t.Errorf("it was heard again: conditions %s", got)
	}
}

// Each reason has its kind and a remedy, and while it lasts status says that nothing is encrypted.
func TestConditionOf(t *testing.T) {
	for _, test := range []struct {
		err  error
		want mesh.Kind
	}{
		{fmt.Errorf("make it: %w", link.ErrNoWireGuard), mesh.WireGuardMissing}, {errUnguarded, mesh.GuardMissing},
		{errTaken, mesh.WireGuardRefused},
		{unix.EADDRINUSE, mesh.WireGuardRefused}, {errors.New("something"), mesh.WireGuardRefused},
	} {
		c := conditionOf(test.err, three())
		if c.Kind != test.want || c.Severity != mesh.Failed || c.Remedy == "" || c.Cause == "" {
			t.Errorf("%v is %+v", test.err, c)
		}
	}
	k := newKeeper(Options{})
	k.wanted = three()
	k.tellFailed()
	if told := k.Told(); told.Implementation != "" || told.Interface == "" || told.Port != 51820 {
		t.Errorf("told %+v", told)
	}
}

// Whoever asks while the daemon ends is not left waiting.
func TestWantAfterTheEnd(t *testing.T) {
	k := newKeeper(Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Keep(ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok := k.want(context.WithoutCancel(ctx), three()); ok {
		t.Error("something is wanted of nobody")
	}
}
