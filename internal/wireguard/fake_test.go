package wireguard

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

const testInterface = "wg-test"

// A fakeKernel is an interface that behaves as the kernel's do: a prefix belongs to one peer, a peer with the
// own key is ignored, keys are clamped, peers stay in the order in which they were made.
type fakeKernel struct {
	private wgtypes.Key
	port    int
	peers   []wgtypes.Peer // without prefixes
	owners  map[netip.Prefix]wgtypes.Key

	failAt int               // the step that fails; 0: none
	steps  int               // device settings and peers that were taken
	calls  int               // of ConfigureDevice
	wrong  []string          // what must not be asked for
	watch  func(*fakeKernel) // after each step
}

var errInjected = errors.New("injected")

func newKernel() *fakeKernel { return &fakeKernel{owners: map[netip.Prefix]wgtypes.Key{}} }

func (k *fakeKernel) Close() error { return nil }

func (k *fakeKernel) Device(name string) (*wgtypes.Device, error) {
	if name != testInterface {
		return nil, os.ErrNotExist
	}
	d := &wgtypes.Device{Name: name, Type: wgtypes.LinuxKernel, PrivateKey: k.private, ListenPort: k.port}
	if k.private != (wgtypes.Key{}) {
		d.PublicKey = k.private.PublicKey()
	}
	for _, p := range k.peers {
		for prefix, owner := range k.owners {
			if owner == p.PublicKey {
				p.AllowedIPs = append(p.AllowedIPs, ipNet(prefix))
			}
		}
		d.Peers = append(d.Peers, p)
	}
	return d, nil
}

// step counts, and fails where it should.
func (k *fakeKernel) step() error {
	k.steps++
	if k.steps == k.failAt {
		return errInjected
	}
	return nil
}

func (k *fakeKernel) ConfigureDevice(name string, c wgtypes.Config) error {
	if name != testInterface {
		return os.ErrNotExist
	}
	k.calls++
	both := len(c.Peers) > 0 && (c.PrivateKey != nil || c.ListenPort != nil)
	if c.ReplacePeers || c.FirewallMark != nil || both {
		k.wrong = append(k.wrong, fmt.Sprintf("a call with %+v", c))
	}
	if c.PrivateKey != nil || c.ListenPort != nil {
		if err := k.step(); err != nil {
			return err
		}
	}
	if c.PrivateKey != nil {
		k.private = clamped(*c.PrivateKey)
		k.remove(k.private.PublicKey())
	}
	if c.ListenPort != nil {
		k.port = *c.ListenPort
	}
	if n := prefixesOf(c.Peers); len(c.Peers) > peersAtOnce || n > prefixesAtOnce {
		k.wrong = append(k.wrong, fmt.Sprintf("a call with %d peers and %d prefixes", len(c.Peers), n))
	}
	for _, p := range c.Peers {
		if err := k.step(); err != nil {
			return err
		}
		k.peer(p)
		if k.watch != nil {
			k.watch(k)
		}
	}
	return nil
}

func prefixesOf(peers []wgtypes.PeerConfig) (n int) {
	for _, p := range peers {
		n += len(p.AllowedIPs)
	}
	return n
}

// peer does what set_peer in drivers/net/wireguard/netlink.c does.
func (k *fakeKernel) peer(c wgtypes.PeerConfig) {
	if c.ReplaceAllowedIPs {
		k.wrong = append(k.wrong, "ReplaceAllowedIPs")
	}
	if k.private != (wgtypes.Key{}) && c.PublicKey == k.private.PublicKey() {
		return
	}
	i := slices.IndexFunc(k.peers, func(p wgtypes.Peer) bool { return p.PublicKey == c.PublicKey })
	if i < 0 {
		if c.UpdateOnly || c.Remove {
			return
		}
		k.peers = append(k.peers, wgtypes.Peer{PublicKey: c.PublicKey})
		i = len(k.peers) - 1
	}
	if c.Remove {
		k.remove(c.PublicKey)
		return
	}
	p := &k.peers[i]
	if c.PresharedKey != nil {
		p.PresharedKey = *c.PresharedKey
	}
	if c.Endpoint != nil {
		p.Endpoint = c.Endpoint
	}
	if c.PersistentKeepaliveInterval != nil {
		p.PersistentKeepaliveInterval = *c.PersistentKeepaliveInterval
	}
	for _, prefix := range prefixes(&wgtypes.Peer{AllowedIPs: c.AllowedIPs}) {
		k.owners[prefix] = c.PublicKey
	}
}

// remove takes a peer away with its prefixes.
func (k *fakeKernel) remove(key wgtypes.Key) {
	k.peers = slices.DeleteFunc(k.peers, func(p wgtypes.Peer) bool { return p.PublicKey == key })
	for prefix, owner := range k.owners {
		if owner == key {
			delete(k.owners, prefix)
		}
	}
}

// differs returns the first thing in which an interface is not as wanted, by a comparison of its own.
func differs(d *wgtypes.Device, s Settings) string {
	if d.PrivateKey.PublicKey() != s.Private.key.PublicKey() || d.ListenPort != int(s.Port) {
		return fmt.Sprintf("key or port %d", d.ListenPort)
	}
	if len(d.Peers) != len(s.Peers) {
		return fmt.Sprintf("%d peers, want %d", len(d.Peers), len(s.Peers))
	}
	for _, want := range s.Peers {
		i := slices.IndexFunc(d.Peers, func(p wgtypes.Peer) bool { return p.PublicKey == wgtypes.Key(want.Key) })
		if i < 0 {
			return fmt.Sprintf("no peer %v", want.Key)
		}
		got := d.Peers[i]
		if got.PersistentKeepaliveInterval != want.Keepalive {
			return fmt.Sprintf("keepalive %v, want %v", got.PersistentKeepaliveInterval, want.Keepalive)
		}
		have := prefixes(&got)
		slices.SortFunc(have, netip.Prefix.Compare)
		wanted := slices.SortedFunc(slices.Values(want.Allowed), netip.Prefix.Compare)
		if !slices.Equal(have, wanted) {
			return fmt.Sprintf("peer %v has %v, want %v", want.Key, have, wanted)
		}
	}
	return ""
}

// keepalives are what random peers have.
var keepalives = []time.Duration{0, 0, 25 * time.Second, 65535 * time.Second}
