package wireguard

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Errors of this package. Others are those of the kernel, such as unix.EADDRINUSE where another socket has
// the port, and unix.EPERM.
var (
	ErrNone     = errors.New("there is no such WireGuard interface") // neither in the kernel nor in user space
	ErrSettings = errors.New("no interface can have these settings")
	ErrOwnKey   = errors.New("a peer has this host's own key") // interfaces ignore such a peer silently
	ErrDiffers  = errors.New("the interface is not as it was set")
)

// PrivateOf returns a private key made of 32 random bytes.
func PrivateOf(b [32]byte) Private { return Private{key: clamped(b)} }

// Set brings an interface, which exists, to the wanted state. It returns a phrase for each thing that it
// changed, which is empty if nothing was to do; then Set was one read.
//
// It compares with the interface itself and has no memory, so what other programs changed is repaired.
// Sessions of peers that stay are kept, and none of their prefixes is without owner at any time: Set never
// replaces lists, and never takes the interface down. A prefix that moves from one peer to another moves in
// one step. Marks of the interface (fwmark) are left alone.
//
// After Set has written, it reads the interface again. ErrDiffers names the first thing that is not as
// wanted, for instance because another program writes at the same time. There is no transaction: after an
// error some of the changes are in force. The caller calls Set again, with the same settings or others. The
// next Set also removes what an interrupted one left.
//
// Removing a peer ends its sessions at once; remove its routes before.
func Set(c Client, s Settings) (changed []string, err error) {
	if err := check(s); err != nil {
		return nil, err
	}
	has, err := device(c, s.Interface)
	if err != nil {
		return nil, err
	}
	diff := compare(has, s)
	if diff.empty() {
		return nil, nil
	}
	applyErr := apply(c, s.Interface, diff)
	if has, err = device(c, s.Interface); err != nil {
		return diff.what, errors.Join(applyErr, err)
	}
	// Call is no wish for a state: a packet of the peer may have moved the endpoint again meanwhile.
	left := compare(has, uncalled(s))
	switch {
	case applyErr != nil && !left.empty():
		return diff.what, fmt.Errorf("%w (left to do: %d, first: %s)", applyErr, len(left.what), left.what[0])
	case applyErr != nil:
		return diff.what, applyErr
	case !left.empty():
		return diff.what, fmt.Errorf("set interface %q: %w: %s", s.Interface, ErrDiffers, left.what[0])
	}
	return diff.what, nil
}

// apply carries a difference out, up to the first error.
func apply(c Client, name string, d difference) error {
	if d.device.PrivateKey != nil || d.device.ListenPort != nil {
		if err := c.ConfigureDevice(name, d.device); err != nil {
			return fmt.Errorf("set key and port of %q: %w", name, none(err))
		}
	}
	peers := d.added
	if len(d.lent) > 0 {
		// Nobody has the private key of the dummy, so it can neither speak nor be spoken to.
		dummy, err := wgtypes.GenerateKey()
		if err != nil {
			return fmt.Errorf("make a key: %w", err)
		}
		peers = append(peers, wgtypes.PeerConfig{PublicKey: dummy, AllowedIPs: ipNets(d.lent)},
			wgtypes.PeerConfig{PublicKey: dummy, UpdateOnly: true, Remove: true})
	}
	for _, key := range d.removed {
		peers = append(peers, wgtypes.PeerConfig{PublicKey: key, UpdateOnly: true, Remove: true})
	}
	for _, call := range calls(peers) {
		if err := c.ConfigureDevice(name, wgtypes.Config{Peers: call}); err != nil {
			return fmt.Errorf("set peers of %q: %w", name, none(err))
		}
	}
	return nil
}

// uncalled returns settings that leave endpoints alone where there is one. The peers are copies.
func uncalled(s Settings) Settings {
	peers := make([]Peer, len(s.Peers))
	for i, p := range s.Peers {
		p.Call = false
		peers[i] = p
	}
	s.Peers = peers
	return s
}

// device reads an interface.
func device(c Client, name string) (*wgtypes.Device, error) {
	d, err := c.Device(name)
	if err != nil {
		return nil, fmt.Errorf("read interface %q: %w", name, none(err))
	}
	return d, nil
}

// none makes ErrNone of the error with which clients say that they do not know an interface.
func none(err error) error {
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrNone) {
		return fmt.Errorf("%w (%w)", ErrNone, err)
	}
	return err
}
