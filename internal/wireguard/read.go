package wireguard

import (
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"example.org/meshd/internal/mesh"
)

// Read returns what an interface tells. It costs a message of some 200 bytes for each peer; the kernel holds
// the lock of all interfaces (rtnl) meanwhile. The error is ErrNone where there is no such interface.
func Read(c Client, name string) (State, error) {
	d, err := device(c, name)
	if err != nil {
		return State{}, err
	}
	s := State{User: d.Type == wgtypes.Userspace, Peers: make(map[mesh.Key]PeerState, len(d.Peers))}
	if d.PrivateKey != (wgtypes.Key{}) {
		s.Public = mesh.Key(d.PublicKey)
	}
	s.Port = uint16(d.ListenPort)
	for i := range d.Peers {
		p := &d.Peers[i]
		s.Peers[mesh.Key(p.PublicKey)] = PeerState{
			Endpoint: addrPort(p.Endpoint), Handshake: p.LastHandshakeTime,
			Received: uint64(max(0, p.ReceiveBytes)), Sent: uint64(max(0, p.TransmitBytes)),
		}
	}
	return s, nil
}
