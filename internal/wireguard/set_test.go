package wireguard

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"example.org/meshd/internal/mesh"
)

// privateKey returns a private key of its own for each number.
func privateKey(n byte) Private { return PrivateOf([32]byte{1: n, 2: 77}) }

// publicKey returns the key of peer n, up to 12. They are made once, since that takes most of the time of a
// test otherwise.
func publicKey(n byte) mesh.Key { return publicKeys[n] }

var publicKeys = func() (all [13]mesh.Key) {
	for n := range all {
		all[n] = privateKey(byte(n)).Public()
	}
	return all
}()

var prefixPool = func() (all []netip.Prefix) {
	for i := range 20 {
		all = append(all, netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)))
		all = append(all, netip.MustParsePrefix(fmt.Sprintf("fd00:%x::/48", i)))
	}
	return append(all, netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("192.0.2.7/32"))
}()

// randomSettings returns a wanted state: some of 12 peers, and each prefix with one of them or none.
func randomSettings(r *rand.Rand) Settings {
	s := Settings{Interface: testInterface, Private: privateKey(200 + byte(r.IntN(2))),
		Port: uint16(51820 + r.IntN(2))}
	for n := range byte(12) {
		if r.IntN(3) == 0 {
			continue
		}
		p := Peer{Key: publicKey(n), Call: r.IntN(4) == 0, Keepalive: keepalives[r.IntN(len(keepalives))]}
		if r.IntN(4) > 0 {
			p.Endpoint = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), uint16(1+r.IntN(3)))
		}
		s.Peers = append(s.Peers, p)
	}
	for _, prefix := range prefixPool {
		if n := r.IntN(len(s.Peers) + 2); n < len(s.Peers) {
			s.Peers[n].Allowed = append(s.Peers[n].Allowed, prefix)
		}
	}
	return s
}

// watchOwners has a kernel tell of each moment at which a prefix that has an owner now, and will have one
// with s, is with neither of them.
func watchOwners(k *fakeKernel, s Settings) {
	before := maps.Clone(k.owners)
	after := map[netip.Prefix]wgtypes.Key{}
	for _, p := range s.Peers {
		for _, prefix := range p.Allowed {
			after[prefix] = wgtypes.Key(p.Key)
		}
	}
	k.watch = func(k *fakeKernel) {
		for prefix, was := range before {
			will, stays := after[prefix]
			if owner, ok := k.owners[prefix]; stays && (!ok || owner != was && owner != will) {
				k.wrong = append(k.wrong, fmt.Sprintf("%v is with %v, not with %v or %v", prefix, owner, was, will))
			}
		}
	}
}

// Whatever the state before, Set leads to the wanted one, no prefix is without owner meanwhile, endpoints are
// written only where they have to be, and a second Set does nothing.
func TestRandomStates(t *testing.T) {
	k := newKernel()
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 1))
		for i := range k.peers { // some roam, and some get settings of another program
			switch r.IntN(5) {
			case 0:
				k.peers[i].Endpoint = udpAddr(netip.MustParseAddrPort("198.51.100.1:777"))
			case 1:
				k.peers[i].PresharedKey = wgtypes.Key{1}
			}
		}
		s := randomSettings(r)
		want := endpointsAfter(k, s)
		watchOwners(k, s)
		changed, err := Set(k, s)
		d, _ := k.Device(testInterface)
		if diff := differs(d, s); err != nil || diff != "" {
			t.Fatalf("seed %d: %v, %s", seed, err, diff)
		}
		for _, p := range d.Peers {
			if got := addrPort(p.Endpoint); got != want[p.PublicKey] || p.PresharedKey != (wgtypes.Key{}) {
				t.Fatalf("seed %d: endpoint %v, want %v, of %+v", seed, got, want[p.PublicKey], p)
			}
		}
		calls := k.calls
		again, err := Set(k, s)
		if err != nil || len(again) > 0 || k.calls != calls || len(changed) == 0 && seed == 0 {
			t.Fatalf("seed %d: %v, %q again, %v", seed, changed, again, err)
		}
	}
	if len(k.wrong) > 0 {
		t.Error(k.wrong)
	}
}

// endpointsAfter returns the endpoints that peers should have after Set, by the words of its contract.
func endpointsAfter(k *fakeKernel, s Settings) map[wgtypes.Key]netip.AddrPort {
	want := map[wgtypes.Key]netip.AddrPort{}
	for _, p := range s.Peers {
		key := wgtypes.Key(p.Key)
		i := slices.IndexFunc(k.peers, func(has wgtypes.Peer) bool { return has.PublicKey == key })
		// The interface forgets a peer whose key becomes its own; none of these does.
		known := i >= 0 && k.peers[i].Endpoint != nil
		if known && (!p.Call || !p.Endpoint.IsValid()) {
			want[key] = addrPort(k.peers[i].Endpoint)
			continue
		}
		want[key] = p.Endpoint
	}
	return want
}

// An error at any step leaves the interface between both states, without a prefix that lost its owner, and
// the next Set completes what was begun.
func TestErrorAtEachStep(t *testing.T) {
	for seed := range uint64(15) {
		for failAt := 1; ; failAt++ {
			r := rand.New(rand.NewPCG(seed, 2))
			k := newKernel()
			if _, err := Set(k, randomSettings(r)); err != nil {
				t.Fatal(err)
			}
			s := randomSettings(r)
			watchOwners(k, s)
			k.steps, k.failAt = 0, failAt
			_, err := Set(k, s)
			failed := k.steps >= failAt
			if failed != errors.Is(err, errInjected) {
				t.Fatalf("seed %d, step %d of %d: %v", seed, failAt, k.steps, err)
			}
			k.failAt = 0
			if _, err := Set(k, s); err != nil {
				t.Fatalf("seed %d, again after step %d: %v", seed, failAt, err)
			}
			d, _ := k.Device(testInterface)
			if diff := differs(d, s); diff != "" || len(k.wrong) > 0 {
				t.Fatalf("seed %d, step %d: %s, %v", seed, failAt, diff, k.wrong)
			}
			if !failed {
				break
			}
		}
	}
}

// A large mesh goes in pieces that one message holds, and one peer may have more prefixes than that.
func TestLargeMesh(t *testing.T) {
	s := Settings{Interface: testInterface, Private: privateKey(200), Port: 51820}
	for n := range 1000 {
		key := mesh.Key{byte(n), byte(n >> 8), 9}
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24)
		s.Peers = append(s.Peers, Peer{Key: key, Allowed: []netip.Prefix{prefix}})
	}
	for n := range 1000 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(n >> 8), byte(n)}), 32)
		s.Peers[500].Allowed = append(s.Peers[500].Allowed, prefix)
	}
	k := newKernel()
	fewer := s
	fewer.Peers = []Peer{{Key: s.Peers[500].Key}}
	for _, s := range []Settings{s, fewer} {
		t.Run(fmt.Sprintf("%d peers", len(s.Peers)), func(t *testing.T) {
			_, err := Set(k, s)
			d, _ := k.Device(testInterface)
			if diff := differs(d, s); err != nil || diff != "" || len(k.wrong) > 0 {
				t.Errorf("%v, %s, %v", err, diff, k.wrong)
			}
		})
	}
}

// What no interface can have is refused before anything is changed.
func TestSettingsRefused(t *testing.T) {
	with := func(key mesh.Key) mesh.Key { key[31] |= 128; return key } // the same key for X25519
	prefix := func(text string) func(*Settings) {
		return func(s *Settings) { s.Peers[0].Allowed[0] = netip.MustParsePrefix(text) }
	}
	endpoint := func(text string) func(*Settings) {
		return func(s *Settings) { s.Peers[0].Endpoint = netip.MustParseAddrPort(text) }
	}
	good := func() Settings {
		return Settings{Interface: testInterface, Private: privateKey(200), Port: 51820, Peers: []Peer{
			{Key: publicKey(1), Allowed: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}},
			{Key: publicKey(2), Endpoint: netip.MustParseAddrPort("192.0.2.1:51820")},
		}}
	}
	for name, test := range map[string]struct {
		edit func(*Settings)
		want error
	}{
		"no interface":        {func(s *Settings) { s.Interface = "" }, ErrSettings},
		"another interface":   {func(s *Settings) { s.Interface = "wg-other" }, ErrNone},
		"no private key":      {func(s *Settings) { s.Private = Private{} }, ErrSettings},
		"own key":             {func(s *Settings) { s.Peers[1].Key = s.Private.Public() }, ErrOwnKey},
		"own key, bit 255":    {func(s *Settings) { s.Peers[1].Key = with(s.Private.Public()) }, ErrOwnKey},
		"no key":              {func(s *Settings) { s.Peers[1].Key = mesh.Key{} }, ErrSettings},
		"same key":            {func(s *Settings) { s.Peers[1].Key = s.Peers[0].Key }, ErrSettings},
		"same key, bit 255":   {func(s *Settings) { s.Peers[1].Key = with(s.Peers[0].Key) }, ErrSettings},
		"shared prefix":       {func(s *Settings) { s.Peers[1].Allowed = s.Peers[0].Allowed }, ErrSettings},
		"no prefix":           {func(s *Settings) { s.Peers[0].Allowed[0] = netip.Prefix{} }, ErrSettings},
		"host bits":           {prefix("10.244.1.1/24"), ErrSettings},
		"mapped prefix":       {prefix("::ffff:10.0.0.0/104"), ErrSettings},
		"keepalive":           {func(s *Settings) { s.Peers[0].Keepalive = time.Millisecond }, ErrSettings},
		"long keepalive":      {func(s *Settings) { s.Peers[0].Keepalive = 65536 * time.Second }, ErrSettings},
		"endpoint, no port":   {endpoint("192.0.2.1:0"), ErrSettings},
		"endpoint with zone":  {endpoint("[fe80::1%eth0]:1"), ErrSettings},
		"endpoint of nothing": {endpoint("0.0.0.0:1"), ErrSettings},
	} {
		t.Run(name, func(t *testing.T) {
			k, s := newKernel(), good()
			test.edit(&s)
			if changed, err := Set(k, s); !errors.Is(err, test.want) || len(changed) > 0 || k.calls > 0 {
				t.Errorf("%q, %v after %d calls, want %v", changed, err, k.calls, test.want)
			}
		})
	}
	if _, err := Set(newKernel(), good()); err != nil {
		t.Error(err)
	}
}

// An interface that does not take what it confirms is found out.
func TestSetIsChecked(t *testing.T) {
	k := newKernel()
	s := Settings{Interface: testInterface, Private: privateKey(200), Port: 51820,
		Peers: []Peer{{Key: publicKey(1)}}}
	k.watch = func(k *fakeKernel) { k.remove(wgtypes.Key(publicKey(1))) } // another program
	if _, err := Set(k, s); !errors.Is(err, ErrDiffers) {
		t.Error(err)
	}
	k.watch = nil
	if _, err := Set(k, s); err != nil {
		t.Error(err)
	}
}

func TestRead(t *testing.T) {
	k := newKernel()
	if s, err := Read(k, testInterface); err != nil || s.Public.IsValid() || s.User {
		t.Errorf("without a key: %+v, %v", s, err)
	}
	if _, err := Read(k, "wg-other"); !errors.Is(err, ErrNone) {
		t.Errorf("no interface: %v", err)
	}
	k.private, k.port = privateKey(200).key, 51820
	at := time.Unix(1700000000, 5)
	k.peers = []wgtypes.Peer{
		{PublicKey: wgtypes.Key(publicKey(1)), Endpoint: udpAddr(netip.MustParseAddrPort("[::ffff:192.0.2.1]:7")),
			LastHandshakeTime: at, ReceiveBytes: 8, TransmitBytes: 9},
		{PublicKey: wgtypes.Key(publicKey(2))},
	}
	s, err := Read(k, testInterface)
	want := PeerState{Endpoint: netip.MustParseAddrPort("192.0.2.1:7"), Handshake: at, Received: 8, Sent: 9}
	if err != nil || s.Public != privateKey(200).Public() || s.Port != 51820 || s.Peers[publicKey(1)] != want ||
		s.Peers[publicKey(2)] != (PeerState{}) || len(s.Peers) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}
